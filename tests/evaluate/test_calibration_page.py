from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.studies import outlier, result, study, tensor, threshold
from trt_int8.evaluate.calibration_page import percent, sqnr_level, write_calibration_page
from trt_int8.spec.study import STUDY_PAGE, CalibrationStudy, TensorStudy

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"


def page_of(folder: Path, found: CalibrationStudy) -> str:
    write_calibration_page(folder / STUDY_PAGE, found)
    return (folder / STUDY_PAGE).read_text(encoding="utf-8")


def page(folder: Path, **changes: Any) -> str:
    return page_of(folder, study(**changes))


class _Tags(HTMLParser):
    """Links, ids, and everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        links = [known.get(k) or "" for k in ("src", "href", "xlink:href", "data") if k in known]
        self.fetched += [tag] * (tag in ("link", "iframe", "img", "object"))
        self.fetched += [link for link in links if not link.startswith("#")]
        self.links += [link[1:] for link in links if link.startswith("#")]
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag == "details" and "open" in known:
            self.open.append(known["data-name"] or "")


def text_of(page: str) -> str:
    """What a reader sees: no styles, no tags, single spaces."""
    visible = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", visible).split())


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert _Tags(text).fetched == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert '<meta charset="utf-8">' in text


def test_the_recommended_method_is_named_with_the_reason_and_the_setting(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert '<pre>[calibration]\nmethod = "mse"</pre>' in text
    seen = text_of(text)
    assert "Recommended: mse." in seen
    assert "mean cosine 0.98765 on 13 held-out texts; next is max with 0.91000" in seen


def test_a_single_method_has_no_runner_up(tmp_path: Path) -> None:
    only = study(methods=(result("mse", 0.98),), tensors=(tensor("a", threshold("mse", 1.0)),))
    assert "next is" not in text_of(page_of(tmp_path, only))


def test_what_the_study_was_made_from_is_shown(tmp_path: Path) -> None:
    seen = text_of(page(tmp_path))
    for shown in ("my-model", "my-recipe", "2 methods on 2 tensors", "41 texts", "c0ffeec0ffee"):
        assert shown in seen
    assert "nothing on this page was measured on a GPU" in seen


def test_methods_come_best_first_with_their_numbers(tmp_path: Path) -> None:
    seen = text_of(page(tmp_path, methods=(result("max", 0.91), result("mse", 0.987, seconds=1.5))))
    seen = seen[seen.index("Methods") :]
    assert seen.index("about mse") < seen.index("about max")
    assert "mse about mse 0.98700 0.013 0.98700 30.0 12.3 1 of 2 1.50 s" in seen


def test_the_bar_of_the_worst_error_is_the_longest(tmp_path: Path) -> None:
    text = page(tmp_path, methods=(result("max", 0.9), result("mse", 0.98)))
    widths = re.findall(r'class="bar off" style="width: ([\d.]+)rem"', text)
    assert [float(width) for width in widths] == [1.0, 5.0]


def test_a_failed_method_shows_its_reason_and_no_numbers(tmp_path: Path) -> None:
    broken = result("entropy", failure="tensor 'x' is silent", mean_sqnr_db=None)
    text = page(tmp_path, methods=(result("max", 0.9), result("mse", 0.98), broken))
    assert "entropy about entropy tensor 'x' is silent 0.25 s" in text_of(text).replace(
        "&#39;", "'"
    )
    assert '<th class="m">entropy</th>' not in text
    assert '<th class="m">max</th>' in text


def test_an_affine_method_is_marked_as_not_for_tensorrt(tmp_path: Path) -> None:
    affine = result("affine-mse", symmetric=False)
    ends = threshold("affine-mse", 0.0, low=-0.25, high=4.5)
    methods = (result("mse", 0.9), affine)
    seen = text_of(page(tmp_path, methods=methods, tensors=(tensor("a", ends),)))
    assert "about affine-mse; not for TensorRT - - - 30.0" in seen
    assert "affine-mse -0.25 to 4.5 94.7 %" in seen


def test_a_study_without_a_usable_method_says_so(tmp_path: Path) -> None:
    broken = result("mse", failure="no", mean_sqnr_db=None, min_sqnr_db=None)
    text = page(tmp_path, methods=(broken,), tensors=(tensor("a"),), recommended=None)
    assert "No method is recommended" in text
    assert "<pre>" not in text


def test_a_nan_cosine_does_not_break_the_page(tmp_path: Path) -> None:
    text = page(tmp_path, methods=(result("max", math.nan), result("mse", 0.98)))
    assert "max about max nan nan nan" in text_of(text)
    assert re.findall(r'class="bar off" style="width: (.*?)"', text) == ["5.00rem", "0.00rem"]
    alone = page(tmp_path, methods=(result("max", math.nan), result("mse", math.nan)))
    assert "width: nan" not in alone


def test_flagged_tensors_are_listed_with_their_numbers_and_are_open(tmp_path: Path) -> None:
    odd = tensor(
        "odd",
        outlier_channels=(outlier(308, 40.25, 21.4), outlier(381, 9.5, 7.6)),
        near_fp16_overflow=True,
    )
    text = page(tmp_path, tensors=(tensor("plain"), odd))
    seen = text_of(text)
    assert "1 tensor to look at" in seen
    assert "near the float16 limit (LayerNorm may overflow); 2 of 17 channels: 308" in seen
    assert f"308 (40.2, 21{SIGMA}) , 381 (9.5, 8{SIGMA})" in seen
    assert _Tags(text).open == ["odd"]


def test_many_outlier_channels_are_counted(tmp_path: Path) -> None:
    many = tuple(outlier(i, 50.0 - i, 9.0) for i in range(7))
    seen = text_of(page(tmp_path, tensors=(tensor("odd", outlier_channels=many),)))
    assert f"7 of 17 channels: 0 (50, 9{SIGMA})" in seen
    assert "and 2 more" in seen
    assert "7 outlier channels" in seen


def test_a_study_without_flagged_tensors_has_no_such_section(tmp_path: Path) -> None:
    assert "to look at" not in page(tmp_path)


def test_the_picture_of_all_tensors_is_coloured_by_bits(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert '<td class="l5"><b>40.0</b></td>' in text
    assert '<td class="l0">5.0</td>' in text
    assert '<td class="l4"><b>31.3</b></td>' in text


@pytest.mark.parametrize(
    ("value", "level"),
    [(-3.0, 0), (11.9, 0), (12.0, 1), (29.9, 3), (41.9, 5), (42.0, 6), (99.0, 6), (math.nan, 0)],
)
def test_each_level_is_one_bit(value: float, level: int) -> None:
    assert sqnr_level(value) == level


def test_every_link_leads_somewhere_and_every_tensor_has_a_place(tmp_path: Path) -> None:
    odd = tensor("odd", threshold("mse", 2.0), outlier_channels=(outlier(1, 9.0, 9.0),))
    tags = _Tags(page(tmp_path, tensors=(*study().tensors, odd)))
    assert set(tags.links) <= set(tags.ids)
    assert {"t0", "t1", "t2"} <= set(tags.links)
    assert len(tags.ids) == len(set(tags.ids))


def test_the_worst_tensor_of_a_method_is_linked(tmp_path: Path) -> None:
    assert '<a href="#t1" title="layer.0.k">12.3</a>' in page(tmp_path)


def test_each_tensor_shows_its_values_and_ranges(tmp_path: Path) -> None:
    clipped = threshold("mse", 2.375, clipped_share=0.00005, sqnr_db=33.33)
    seen = text_of(page(tmp_path, tensors=(tensor("layer.7", clipped),)))
    assert "2,229 values from -3.5 to 4.75, 17 channels" in seen
    assert "mse ±2.375 50.0 % 0.0050 % 33.3" in seen


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    odd: TensorStudy = tensor(evil, threshold("mse", 1.0), outlier_channels=(outlier(1, 9.0, 9.0),))
    broken = result("max", failure=evil)
    text = page(tmp_path, model=evil, tensors=(odd,), methods=(broken, result("mse", 0.9)))
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert _Tags(text).open == [evil]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50.0 %"),
        (0.0001, "0.010 %"),
        (0.99995, "99.9950 %"),
        (3e-9, "3.0e-07 %"),
        (0.0123, "1.2 %"),
    ],
)
def test_a_share_never_looks_like_nothing_or_all_unless_it_is(share: float, text: str) -> None:
    assert percent(share) == text


def test_equal_studies_give_equal_bytes(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)
    assert page(tmp_path) != page(tmp_path, samples=42)


def test_a_page_of_200_tensors_and_15_methods_stays_under_10_megabytes(tmp_path: Path) -> None:
    labels = [f"percentile:99.{i}" for i in range(15)]
    lines = [threshold(label, 4.75 - i / 5) for i, label in enumerate(labels)]
    tensors = tuple(tensor(f"encoder.layer.{i}.output.dense.input", *lines) for i in range(200))
    methods = tuple(result(label, 0.9) for label in labels)
    text = page(tmp_path, tensors=tensors, methods=methods, recommended=labels[0])
    assert len(text.encode()) < 10_000_000
    assert text.count("</details>") == 200
