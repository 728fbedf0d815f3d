from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from trt_int8.evaluate.plots import error_distribution, range_plot
from trt_int8.spec.ranges import RangeTable, TensorRange

COSINES = tuple(float(c) for c in np.random.default_rng(5).uniform(0.9, 1.0, 37))


def table(ranges: dict[str, tuple[float, float]]) -> RangeTable:
    entries = {name: TensorRange(amax=a, peak=p) for name, (a, p) in ranges.items()}
    return RangeTable(method="max", samples=3, model_sha256="0", data_sha256="0", ranges=entries)


def texts(svg: str) -> str:
    return " ".join(t for t in ET.fromstring(svg).itertext() if t.strip())


def test_the_histogram_is_an_svg_that_names_the_mean() -> None:
    svg = error_distribution(COSINES)
    assert ET.fromstring(svg).tag.endswith("svg")
    assert f"mean {1 - sum(COSINES) / len(COSINES):.4f}" in texts(svg)


def test_equal_numbers_give_equal_pictures() -> None:
    assert error_distribution(COSINES) == error_distribution(COSINES)
    assert error_distribution(COSINES) != error_distribution(COSINES[:-1])


@pytest.mark.parametrize("cosines", [(1.0,), (0.5, 0.5), (1.0,) * 99])
def test_few_or_equal_errors_can_be_drawn(cosines: tuple[float, ...]) -> None:
    assert "texts" in texts(error_distribution(cosines))


@pytest.mark.parametrize("cosines", [(math.nan,), (math.nan, 0.9, 0.95)])
def test_nan_errors_do_not_break_the_report(cosines: tuple[float, ...]) -> None:
    assert f"NaN for 1 of {len(cosines)} texts" in texts(error_distribution(cosines))


def test_the_mean_is_over_the_texts_that_are_not_nan() -> None:
    assert "mean 0.0750" in texts(error_distribution((math.nan, 0.9, 0.95)))
    assert "NaN" not in texts(error_distribution((0.9, 0.95)))


def test_every_range_is_drawn_with_its_name() -> None:
    svg = range_plot(table({"encoder.0.q": (1.0, 1.0), "encoder.0.k": (2.0, 9.0)}))
    assert "encoder.0.q" in texts(svg)
    assert "encoder.0.k" in texts(svg)


def test_clipping_is_visible_in_the_picture() -> None:
    assert range_plot(table({"a": (1.0, 1.0)})) != range_plot(table({"a": (1.0, 50.0)}))


def test_a_long_name_keeps_its_end() -> None:
    svg = range_plot(table({"x" * 80 + "/end": (1.0, 2.0)}))
    assert "…" + "x" * 55 + "/end" in texts(svg)
    assert "x" * 60 not in svg


@pytest.mark.parametrize("name", ["a$b$c", "cost_$", r"$\frac$", "<b>&amp;</b>"])
def test_a_name_with_special_signs_is_drawn_as_it_is(name: str) -> None:
    assert name in texts(range_plot(table({name: (1.0, 2.0)})))


def test_more_tensors_than_fit_are_cut_and_the_picture_says_so() -> None:
    svg = range_plot(table({f"tensor.{i}": (1.0 + i, 2.0 + i) for i in range(131)}))
    assert "tensor.0 " in texts(svg)
    assert "the 120 most clipped tensors; 11 more are not shown" in texts(svg)


def test_the_most_clipped_of_too_many_tensors_come_first() -> None:
    ranges = {f"plain.{i}": (1.0, 1.0) for i in range(120)}
    shown = texts(range_plot(table({**ranges, "half": (1.0, 2.0), "worst": (0.1, 9.0)})))
    assert 0 < shown.index("worst") < shown.index("half") < shown.index("plain.0")
    assert "plain.118" not in shown


def test_as_many_tensors_as_fit_are_all_shown_in_graph_order() -> None:
    ranges = {f"plain.{i}": (1.0, 1.0) for i in range(119)}
    shown = texts(range_plot(table({**ranges, "worst": (0.1, 9.0)})))
    assert shown.index("plain.118") < shown.index("worst")
    assert "not shown" not in shown


@pytest.mark.parametrize("ranges", [{}, {"tiny": (1e-30, 1e-30), "huge": (1e30, 3e30)}])
def test_no_ranges_or_extreme_ones_can_be_drawn(ranges: dict[str, tuple[float, float]]) -> None:
    assert ET.fromstring(range_plot(table(ranges))).tag.endswith("svg")
