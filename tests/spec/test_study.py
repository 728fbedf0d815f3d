from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.studies import outlier, result, study, tensor, threshold
from trt_int8.errors import RangeError
from trt_int8.spec.study import CalibrationStudy, CoarseHistogram, recommend

COSINES = st.one_of(st.none(), st.just(math.nan), st.floats(-1, 1))


def test_a_study_survives_its_json_form() -> None:
    first = study()
    assert CalibrationStudy.model_validate_json(first.to_json()) == first
    assert CalibrationStudy.model_validate_json(study(samples=42).to_json()) != first


def test_a_nan_cosine_survives_the_json_form() -> None:
    text = study(methods=(result("max", math.nan), result("mse", 0.5))).to_json()
    back = CalibrationStudy.model_validate_json(text).methods[0].output_cosine_mean
    assert back is not None
    assert math.isnan(back)


@pytest.mark.parametrize(
    ("number", "edges"), [(-2, (-1.5, -1.0)), (0, (-0.5, 0.5)), (1, (0.5, 1.0)), (3, (1.5, 2.0))]
)
def test_the_bin_around_zero_is_twice_as_wide(number: int, edges: tuple[float, float]) -> None:
    assert CoarseHistogram(width=0.5, first=-2, counts=(1,) * 6).edges(number) == edges


def test_the_bins_touch_and_do_not_overlap() -> None:
    histogram = CoarseHistogram(width=0.75, first=-5, counts=(1,) * 9)
    ends = [histogram.edges(number) for number in range(-5, 4)]
    assert all(left[1] == right[0] for left, right in pairwise(ends))


def test_the_peak_is_the_largest_magnitude_of_either_sign() -> None:
    assert tensor("a", low=-9.0, high=4.0).peak == 9.0
    assert tensor("a", low=-2.0, high=4.0).peak == 4.0


def test_the_threshold_of_a_method_is_found_by_its_label() -> None:
    found = tensor("a", threshold("max", 4.0), threshold("mse", 3.0))
    assert found.of("mse") == threshold("mse", 3.0)
    assert found.of("entropy") is None


@pytest.mark.parametrize(
    "changes", [{"recommended": "gone"}, {"tensors": (tensor("a", threshold("gone", 1.0)),)}]
)
def test_a_method_without_a_result_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        RangeError, match=r"names the method 'gone'; wanted one of its .*: max, mse"
    ):
        study(**changes)


def test_the_method_with_the_highest_output_cosine_is_recommended() -> None:
    sharp = result("max", 0.8, mean_sqnr_db=99.0)
    assert recommend((sharp, result("mse", 0.9), result("sqnr", 0.85))) == "mse"


def test_equal_cosines_are_told_apart_by_the_worst_text_then_by_sqnr_then_by_order() -> None:
    a, b = result("a", 0.9), result("b", 0.9)
    assert recommend((a, b)) == "a"
    assert recommend((a, b.model_copy(update={"mean_sqnr_db": 30.05}))) == "b"
    assert recommend((a.model_copy(update={"output_cosine_min": 0.91}), b)) == "a"


def test_only_what_tensorrt_takes_and_was_measured_is_recommended() -> None:
    affine = result("affine-mse", 0.99, symmetric=False)
    broken = result("mse", 0.99, failure="no range")
    assert recommend((affine, broken, result("sqnr"), result("max", math.nan))) is None
    assert recommend((affine, broken, result("sqnr"), result("max", 0.1))) == "max"


def test_methods_are_ranked_by_cosine_and_the_unmeasured_ones_by_sqnr() -> None:
    methods = (
        result("low", 0.5),
        result("weak", mean_sqnr_db=10.0),
        result("failed", mean_sqnr_db=None),
        result("nan", math.nan, mean_sqnr_db=11.0),
        result("good", mean_sqnr_db=20.0),
        result("high", 0.6),
    )
    ranked = study(methods=methods, tensors=(), recommended=None).ranked()
    assert [r.method for r in ranked] == ["high", "low", "good", "nan", "weak", "failed"]


@settings(max_examples=60)
@given(st.lists(COSINES, min_size=1, max_size=6))
def test_the_recommended_method_is_the_first_ranked_one(cosines: list[float | None]) -> None:
    methods = tuple(result(f"m{i}", cosine) for i, cosine in enumerate(cosines))
    ranked = study(methods=methods, tensors=(), recommended=None).ranked()
    measured = [c for c in cosines if c is not None and not math.isnan(c)]
    assert recommend(methods) == (ranked[0].method if measured else None)


def test_flagged_tensors_come_with_the_most_serious_first() -> None:
    tensors = (
        tensor("plain"),
        tensor("mild", outlier_channels=(outlier(1, 9.0, 7.0),)),
        tensor("strong", outlier_channels=(outlier(4, 9.0, 8.0), outlier(2, 8.0, 70.0))),
        tensor("overflow", near_fp16_overflow=True),
    )
    flagged = study(tensors=tensors).flagged()
    assert [t.name for t in flagged] == ["overflow", "strong", "mild"]
