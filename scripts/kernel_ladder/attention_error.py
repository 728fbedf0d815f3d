"""How far attention is from float64, in the errors of softmaxes that only round probabilities.

All start from the same int8 q, k and v. Plain: softmax in float64, probabilities rounded to int8 in
steps of 1/127, as a Q/DQ pair behind the softmax does. Relative: in steps of 1/255 of the row's
largest one, known beforehand, which is what the kernel comes close to without knowing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.plugins import attention_cases as cases
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars
from trt_int8.plugins.attention_model import AttentionTensors

QUERIES = 128
CODE_DEVIATION = 40.0
# Values around zero, and values with a mean as large as their deviation: what the probabilities sum
# to matters for the second only.
VALUE_MEANS = (0.0, 40.0)


@dataclass(frozen=True)
class AttentionCase:
    """One call with half output and v_scale 1."""

    options: AttentionOptions
    scalars: AttentionScalars
    tensors: AttentionTensors


Attention = Callable[[AttentionCase], NDArray[Any]]


@dataclass(frozen=True)
class Ratios:
    """Largest error of an attention over the largest error of each of the two softmaxes."""

    plain: float
    relative: float


def error_ratios(attend: Attention, case: AttentionCase) -> Ratios:
    """Of one call."""
    exact = cases.probabilities(case.options, case.scalars, case.tensors)
    largest = exact.max(-1, keepdims=True)
    wanted = cases.weighted(exact, case.tensors)

    def error(output: NDArray[Any]) -> float:
        # Half, as the kernel's own output: its rounding is in all of them.
        return float(np.abs(output.astype(np.float16).astype(np.float64) - wanted).max())

    own = error(attend(case))
    plain = error(cases.weighted(np.rint(exact * 127) / 127, case.tensors))
    steps = np.rint(exact / largest * 255) / 255
    return Ratios(own / plain, own / error(cases.weighted(steps * largest, case.tensors)))


def lone_key_error(attend: Attention, head_dim: int) -> float:
    """Largest |weight - 1| of a key that no other one competes with; half rounds by 2^-11."""
    case = random_case(head_dim, 1, deviation=5.0, value_mean=0.0)
    tensors = AttentionTensors((*case.tensors.arrays[:2], np.ones_like(case.tensors.arrays[2])))
    found = attend(AttentionCase(case.options, case.scalars, tensors))
    return float(np.abs(found.astype(np.float64) - 1).max())


def random_case(
    head_dim: int, keys: int, *, deviation: float, value_mean: float, seed: int = 0
) -> AttentionCase:
    """One head, `QUERIES` queries; scores (before the softmax) of about `deviation`."""
    rng = np.random.default_rng([seed, head_dim, keys, round(100 * deviation)])

    def codes(rows: int, mean: float = 0.0) -> NDArray[np.int8]:
        values = np.rint(rng.normal(mean, CODE_DEVIATION, (1, rows, 1, head_dim)))
        return np.clip(values, -128, 127).astype(np.int8)

    # A product of two codes has a deviation of CODE_DEVIATION^2, the sum of D of them sqrt(D) more.
    step = float(np.sqrt(deviation)) / CODE_DEVIATION
    scalars = AttentionScalars(step, step, 1.0, 1.0, head_dim**-0.5)
    tensors = AttentionTensors((codes(QUERIES), codes(keys), codes(keys, value_mean)))
    return AttentionCase(AttentionOptions(head_dim, half_output=True), scalars, tensors)
