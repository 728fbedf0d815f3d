from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.studies import tensor, threshold
from trt_int8.evaluate.calibration_plots import histogram_picture, method_css, swatch
from trt_int8.spec.study import CoarseHistogram, TensorStudy

NUMBERS = {"max": 0, "mse": 1, "percentile:99.99": 2, "entropy:stride=8,start=64": 3}
# The widest letters of common sans-serif fonts at 11 points, on average over a method's name.
LETTER = 6.5
AMAXES = st.lists(st.floats(0.01, 4.75), min_size=len(NUMBERS), max_size=len(NUMBERS))


class Picture:
    """What is where in a picture, in points."""

    def __init__(self, study: TensorStudy) -> None:
        self.root = ET.fromstring(histogram_picture(study, NUMBERS))
        self.width, self.height = map(float, self.root.attrib["viewBox"].split()[2:])
        self.axis = [t for t in self.root.iter("text") if t.get("class") == "x"]
        self.counts = {
            t.text: float(t.attrib["y"]) - 4
            for t in self.root.iter("text")
            if float(t.attrib["x"]) < 40 and t.get("class") != "x"
        }
        self.groups = {
            t.text or "": group
            for group in self.root.iter("g")
            if (t := group.find("text")) is not None and group.attrib["class"] != "a"
        }

    def value(self, x: float) -> float:
        """Tensor units, by the numbers on the axis."""
        points = [float(t.attrib["x"]) for t in self.axis]
        values = [float(t.text or "") for t in self.axis]
        slope, offset = np.polyfit(points, values, 1)
        return float(slope * x + offset)

    def lines(self, method: str) -> list[tuple[float, float, float]]:
        """(x, upper end, lower end) of each line of a method."""
        path = self.groups[method].find("path")
        assert path is not None
        found = re.findall(r"M([-\d.]+),([-\d.]+)V([-\d.]+)", path.attrib["d"])
        return [(float(x), float(top), float(bottom)) for x, top, bottom in found]

    def label(self, method: str) -> tuple[float, float]:
        text = self.groups[method].find("text")
        assert text is not None
        return float(text.attrib["x"]), float(text.attrib["y"])

    def bar_tops(self) -> list[tuple[float, float]]:
        """(x of the right end, height) of each step of the histogram."""
        (path,) = (p for p in self.root.iter("path") if p.get("class") == "h")
        return [
            (float(x), float(y)) for y, x in re.findall(r"V([-\d.]+)H([-\d.]+)", path.attrib["d"])
        ]


def study_with(*amaxes: float) -> TensorStudy:
    return tensor("t", *(threshold(m, a) for m, a in zip(NUMBERS, amaxes, strict=False)))


def test_each_threshold_stands_at_its_value_on_both_sides() -> None:
    picture = Picture(study_with(4.75, 2.125))
    ends = [picture.value(x) for x, _, _ in picture.lines("mse")]
    assert ends == pytest.approx([2.125, -2.125], abs=0.02)
    assert [picture.value(x) for x, _, _ in picture.lines("max")] == pytest.approx([4.75], abs=0.02)


def test_the_label_is_on_the_side_of_the_largest_magnitude() -> None:
    mirrored = tensor("t", threshold("mse", 2.125), low=-4.75, high=3.5)
    picture = Picture(mirrored)
    assert picture.value(picture.label("mse")[0]) == pytest.approx(-2.125, abs=0.1)
    assert picture.value(picture.lines("mse")[0][0]) == pytest.approx(-2.125, abs=0.02)


def test_both_ends_of_an_affine_range_are_drawn() -> None:
    picture = Picture(tensor("t", threshold("mse", 0.0, low=-1.5, high=3.25)))
    ends = [picture.value(x) for x, _, _ in picture.lines("mse")]
    assert ends == pytest.approx([3.25, -1.5], abs=0.02)


@settings(max_examples=80, deadline=None)
@given(AMAXES)
def test_no_label_meets_another_label_or_the_line_of_another_method(amaxes: list[float]) -> None:
    picture = Picture(study_with(*amaxes))
    for method in NUMBERS:
        left, base = picture.label(method)
        right = left + LETTER * len(method)
        assert right <= picture.width
        assert base >= 9
        for other in set(NUMBERS) - {method}:
            x, y = picture.label(other)
            apart = x > right or x + LETTER * len(other) < left or abs(y - base) >= 11
            assert apart, f"{method} and {other} overlap"
            for line, top, _ in picture.lines(other):
                assert not (left < line < right and top < base), f"a line of {other} in {method}"


def test_a_bar_of_ten_values_ends_at_the_line_of_ten() -> None:
    picture = Picture(study_with(4.75))
    tops = [y for _, y in picture.bar_tops()]
    assert tops[1] == pytest.approx(picture.counts["10"], abs=0.1)
    assert tops[2] == pytest.approx(picture.counts["100"], abs=0.1)
    assert tops[0] == pytest.approx(picture.counts["1"], abs=0.1)


def test_the_bin_around_zero_is_drawn_by_values_per_width() -> None:
    picture = Picture(study_with(4.75))  # 2000 values in a bin of double width
    tops = [y for _, y in picture.bar_tops()]
    assert tops[3] == pytest.approx(picture.counts["1k"], abs=0.1)
    assert picture.value(picture.bar_tops()[3][0]) == pytest.approx(1.0, abs=0.02)


def test_the_bin_around_zero_is_half_as_wide_without_negative_values() -> None:
    drawn = CoarseHistogram(width=1.0, first=0, counts=(1000, 10))
    picture = Picture(tensor("t", histogram=drawn, low=0.0, high=2.0))
    assert picture.bar_tops()[0][1] == pytest.approx(picture.counts["1k"], abs=0.1)
    left = re.search(r'class="h" d="M([\d.]+),', ET.tostring(picture.root, "unicode"))
    assert left is not None
    assert picture.value(float(left[1])) == pytest.approx(0.0, abs=0.01)


def test_the_mirror_image_of_a_positive_tensor_is_drawn_alike() -> None:
    drawn = CoarseHistogram(width=1.0, first=-1, counts=(10, 1000))
    picture = Picture(tensor("t", histogram=drawn, low=-2.0, high=0.0))
    assert picture.bar_tops()[-1][1] == pytest.approx(picture.counts["1k"], abs=0.1)
    assert picture.value(picture.bar_tops()[-1][0]) == pytest.approx(0.0, abs=0.01)


def test_an_empty_bin_is_drawn_lower_than_a_bin_with_one_value() -> None:
    drawn = CoarseHistogram(width=1.0, first=1, counts=(1, 0, 5))
    tops = [y for _, y in Picture(tensor("t", histogram=drawn, low=1.0)).bar_tops()]
    assert tops[1] - tops[0] > 10


def test_the_other_end_is_left_out_where_the_tensor_has_no_values() -> None:
    drawn = CoarseHistogram(width=1.0, first=0, counts=(1000, 10, 1, 1, 1))
    picture = Picture(tensor("t", threshold("mse", 4.0), histogram=drawn, low=0.0))
    assert len(picture.lines("mse")) == 1


def test_a_range_wider_than_the_values_is_inside_the_picture() -> None:
    picture = Picture(study_with(19.0))
    ((x, _, _),) = picture.lines("max")
    assert picture.value(x) == pytest.approx(19.0, abs=0.05)
    assert x < picture.width


def test_a_tensor_without_thresholds_is_drawn() -> None:
    picture = Picture(tensor("t"))
    assert picture.groups == {}
    assert len(picture.bar_tops()) == 8


@pytest.mark.parametrize("unit", [1e-38, 1e-6, 1e6, 1e30])
def test_tensors_of_any_size_are_drawn(unit: float) -> None:
    drawn = CoarseHistogram(width=unit, first=-3, counts=(1, 10, 100, 2000, 100, 10, 1, 7))
    small = tensor("t", threshold("mse", 2 * unit), histogram=drawn, low=-3 * unit, high=5 * unit)
    picture = Picture(small)
    assert picture.value(picture.lines("mse")[0][0]) == pytest.approx(2 * unit, rel=0.02)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", '"quoted"', "é$π"])
def test_a_name_with_special_signs_is_shown_as_it_is(name: str) -> None:
    title = Picture(tensor(name)).root.find("title")
    assert title is not None
    assert title.text == f"{name}: histogram and thresholds"


def test_every_method_has_a_line_of_its_own() -> None:
    rules = [line.partition(" ")[2] for line in method_css(24).splitlines()]
    assert len(set(rules)) == 24
    assert method_css(3).splitlines()[2].startswith(".m2 {")


def test_the_legend_uses_the_style_of_the_line() -> None:
    picture = Picture(study_with(4.75, 2.0, 1.0))
    assert picture.groups["percentile:99.99"].attrib["class"] == "m2"
    assert 'class="p m2"' in swatch(2)


def test_a_picture_of_256_uneven_bins_and_15_methods_stays_under_8_kilobytes() -> None:
    counts = np.random.default_rng(1).integers(1, 10**6, 256)
    drawn = CoarseHistogram(width=1.0, first=-128, counts=tuple(counts.tolist()))
    numbers = {f"percentile:99.{i}": i for i in range(15)}
    lines = [threshold(method, 100.0 + i) for method, i in numbers.items()]
    big = tensor("t", *lines, histogram=drawn, low=-128.5, high=128.0)
    assert len(histogram_picture(big, numbers)) < 8_000


def test_equal_tensors_give_equal_pictures() -> None:
    assert histogram_picture(study_with(4.0), NUMBERS) == histogram_picture(
        study_with(4.0), NUMBERS
    )
    assert histogram_picture(study_with(4.0), NUMBERS) != histogram_picture(
        study_with(3.0), NUMBERS
    )
