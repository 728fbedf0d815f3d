"""Small hand-made calibration studies."""

from __future__ import annotations

from typing import Any

from trt_int8.spec.recipe import Recipe
from trt_int8.spec.study import (
    CalibrationStudy,
    CoarseHistogram,
    MethodResult,
    OutlierChannel,
    TensorStudy,
    TensorThreshold,
)


def threshold(method: str, amax: float, **changes: Any) -> TensorThreshold:
    base = TensorThreshold(method=method, low=-amax, high=amax, sqnr_db=31.26, clipped_share=0.0)
    return base.model_copy(update=changes)


def tensor(name: str, *thresholds: TensorThreshold, **changes: Any) -> TensorStudy:
    """Values from -3 to 5 in bins of 1: 1, 10, 100, 2000 (around zero), 100, 10, 1, 7."""
    base = TensorStudy(
        name=name,
        count=2229,
        low=-3.5,
        high=4.75,
        histogram=CoarseHistogram(width=1.0, first=-3, counts=(1, 10, 100, 2000, 100, 10, 1, 7)),
        channels=17,
        outlier_channels=(),
        near_fp16_overflow=False,
        thresholds=thresholds,
    )
    return base.model_copy(update=changes)


def outlier(channel: int, peak: float, sigmas: float) -> OutlierChannel:
    return OutlierChannel(channel=channel, peak=peak, sigmas=sigmas)


def result(method: str, cosine: float | None = None, **changes: Any) -> MethodResult:
    base = MethodResult(
        method=method,
        about=f"about {method}",
        symmetric=True,
        seconds=0.25,
        mean_sqnr_db=30.04,
        min_sqnr_db=12.34,
        clipped_tensors=1,
        output_cosine_mean=cosine,
        output_cosine_min=cosine,
    )
    return base.model_copy(update=changes)


def study(**changes: Any) -> CalibrationStudy:
    """Two methods on two tensors; `mse` is recommended."""
    values: dict[str, Any] = {
        "model": "my-model",
        "model_sha256": "c0ffee" * 10,
        "data_sha256": "decade" * 10,
        "samples": 41,
        "texts_held_out": 13,
        "recipe": Recipe(name="my-recipe"),
        "methods": (result("max", 0.91), result("mse", 0.98765)),
        "tensors": (
            tensor("layer.0.q", threshold("max", 4.75), threshold("mse", 2.0, sqnr_db=40.0)),
            tensor("layer.0.k", threshold("max", 4.75), threshold("mse", 3.0, sqnr_db=5.0)),
        ),
        "recommended": "mse",
        **changes,
    }
    return CalibrationStudy(**values)
