from __future__ import annotations

import math

import pytest

from trt_int8.spec.accuracy import AccuracyReport, OutputError, PairAccuracy


def error(output: str, max_abs: float, sqnr_db: float = 20.0) -> OutputError:
    return OutputError(
        output=output,
        max_abs=max_abs,
        mean_abs=0.1,
        cosine_mean=0.9,
        cosine_min=0.8,
        sqnr_db=sqnr_db,
    )


def report() -> AccuracyReport:
    fp16 = PairAccuracy(
        reference="fp32", measured="fp16", outputs=(error("a", 1), error("b", 2, math.inf))
    )
    int8 = PairAccuracy(reference="fp16", measured="int8", outputs=(error("a", 3), error("b", 4)))
    return AccuracyReport(primary_output="b", samples=2, pairs=(fp16, int8), cosines=(0.9, 0.8))


@pytest.mark.parametrize(
    ("measured", "reference", "max_abs"), [("fp16", "fp32", 2), ("int8", "fp16", 4)]
)
def test_a_pair_gives_the_errors_of_the_primary_output(
    measured: str, reference: str, max_abs: float
) -> None:
    assert report().of(measured, reference).max_abs == max_abs


def test_a_report_with_an_infinite_ratio_survives_its_json_form() -> None:
    assert AccuracyReport.model_validate_json(report().to_json()) == report()
