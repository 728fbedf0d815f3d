from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.studies import outlier, result, study, tensor, threshold
from trt_int8.terminal import print_study

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def printed(folder: Path = Path("/out"), width: int = 120, **changes: Any) -> str:
    stream = io.StringIO()
    print_study(Console(file=stream, width=width), study(**changes), folder)
    return stream.getvalue()


def row(text: str, method: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"│ {method}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_each_method_has_its_numbers_and_the_best_comes_first() -> None:
    text = printed()
    assert row(text, "mse") == ["mse", "30.0", "12.3", "1", "0.98765", "0.98765"]
    assert text.index("│ mse") < text.index("│ max")


def test_what_was_not_measured_is_a_dash() -> None:
    text = printed(methods=(result("mse", 0.9), result("max")))
    assert row(text, "max") == ["max", "30.0", "12.3", "1", "-", "-"]


def test_a_failed_method_has_dashes_and_its_reason_below() -> None:
    broken = result("max", failure="tensor 'x' is silent.", mean_sqnr_db=None, min_sqnr_db=None)
    text = printed(methods=(result("mse", 0.9), broken))
    assert row(text, "max") == ["max", "-", "-", "-", "-", "-"]
    assert "\nmax: tensor 'x' is silent.\n" in text


def test_a_method_keeps_its_whole_name_on_80_columns() -> None:
    label = "entropy:stride=8,start=64"
    assert row(printed(width=80, methods=(result(label, 0.9), *study().methods)), label)[0] == label


def test_the_recommended_method_comes_as_toml_for_a_recipe() -> None:
    text = printed()
    assert "recommended: mse (the output closest to float on 13 held-out texts)" in text
    setting = text.partition("in a recipe:\n")[2].partition("page:")[0]
    assert tomllib.loads(setting) == {"calibration": {"method": "mse"}}


def test_no_recommendation_is_said_and_no_setting_shown() -> None:
    text = printed(recommended=None)
    assert "no method is recommended" in text
    assert "in a recipe" not in text


def test_flagged_tensors_are_named_with_their_reasons() -> None:
    many = tuple(outlier(i, 50.0 - i, 9.0) for i in (3, 1, 4, 2))
    tensors = (
        tensor("plain"),
        tensor("one", outlier_channels=(outlier(99, 30.25, 41.0),)),
        tensor("both", outlier_channels=many, near_fp16_overflow=True, high=9000.0),
    )
    lines = printed(tensors=tensors).splitlines()
    assert "look at one: outlier channel 99 (peak 30.2)" in lines
    both = "outlier channels 3 (peak 47), 1 (peak 49), 4 (peak 46) and 1 more"
    assert f"look at both: peak 9000 is near the float16 limit; {both}" in lines
    assert "plain" not in "\n".join(lines)


@pytest.mark.parametrize(("count", "more"), [(10, None), (11, 1), (34, 24)])
def test_ten_flagged_tensors_are_listed_and_the_others_counted(
    count: int, more: int | None
) -> None:
    tensors = tuple(tensor(f"t{i}", outlier_channels=(outlier(i, 9.0, 9.0),)) for i in range(count))
    text = printed(tensors=tensors)
    assert text.count("look at") == min(count, 10)
    assert (f"… and {more} more tensors" in text) == (more is not None)
    assert ("… and" in text) == (more is not None)


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    odd = tensor("a[bold]b[/]", threshold("mse", 1.0), near_fp16_overflow=True)
    text = printed(model="m[red]", tensors=(odd,))
    assert "a[bold]b[/]" in text
    assert "m[red]: 1 tensors" in text


def test_the_page_is_named_as_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "\npage: out/calibration.html\n" in printed(tmp_path / "out")
    assert "\npage: /elsewhere/calibration.html\n" in printed(Path("/elsewhere"))
