"""Sanitizers find nothing in any kernel, on either architecture's path, in any order of threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.emulator_build import Sanitizer
from tests.kernels.planted.cases import CASES, Run
from tests.kernels.tools import needs_gxx
from tests.plugins import attention_cases
from trt_int8.plugins.attention import AttentionOptions, launch
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm
from trt_int8.plugins.kernel import Input, Output

pytestmark = [needs_gxx, pytest.mark.sanitizer]

# Odd sizes that fill no block, warp or tile; every layout, mask and output type.
ATTENTION = {
    "16-causal": (AttentionOptions(16, causal=True), attention_cases.Sizes(1, 113, 113, 3)),
    "64-lengths": (AttentionOptions(64, "lengths"), attention_cases.Sizes(3, 150, 70, 1)),
    "96-full-half": (
        AttentionOptions(96, "full", half_output=True),
        attention_cases.Sizes(1, 65, 130, 1),
    ),
    "128-packed-keys": (
        AttentionOptions(128, "keys", layout="packed"),
        attention_cases.Sizes(1, 70, 70, 3),
    ),
    "32-ragged": (AttentionOptions(32, layout="ragged"), attention_cases.Sizes(3, 131, 131, 1)),
}


def attention_run(name: str, sm: int) -> Run:
    options, sizes = ATTENTION[name]
    tensors = attention_cases.random_tensors(options, sizes)
    arguments, _ = attention_cases.kernel_arguments(options, attention_cases.SCALARS, tensors)
    return Run(launch(options, tensors.shape(options), sm), tuple(arguments))


def integer_gelu(sm: int) -> Run:
    x = np.random.default_rng(1).integers(-(2**31), 2**31, 1027).astype(np.int32)
    op = IntegerGelu(1e-3, 0.03)
    out = Output(np.zeros(x.shape, np.int8))
    return Run(op.launch(x.size, sm), (Input(x), *op.arguments(x.size), out))


def integer_layernorm(sm: int) -> Run:
    random = np.random.default_rng(2)
    x = random.integers(-(2**31), 2**31, (7, 33)).astype(np.int32)
    gamma, beta = random.uniform(0.3, 2, 33), random.normal(0, 1, 33)
    op = IntegerLayerNorm(tuple(gamma.tolist()), tuple(beta.tolist()), 0.05)
    inputs = (Input(x), *(Input(array) for array in op.channel_inputs()))
    return Run(op.launch(7, sm), (*inputs, *op.arguments(7), Output(np.zeros(x.shape, np.int8))))


def assert_nothing_is_found(make: Callable[[], Run], sanitizer: Sanitizer) -> None:
    """Several schedules end without a fault, and with the bits of the plain emulator."""
    plain = make()
    Emulator().run(plain.launch, plain.arguments)
    for seed in (0, 1, 5):
        run = make()
        Emulator(sanitizer).run(run.launch, run.arguments, seed=seed)
        for came, wanted in zip(run.outputs, plain.outputs, strict=True):
            assert came.tobytes() == wanted.tobytes()


every_sanitizer = pytest.mark.parametrize("sanitizer", ["address", "thread"])


@every_sanitizer
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, sanitizer: Sanitizer) -> None:
    assert_nothing_is_found(lambda: attention_run(name, 80), sanitizer)


@every_sanitizer
@pytest.mark.parametrize("name", ["64-lengths", "32-ragged"])
def test_attention_of_sm75(name: str, sanitizer: Sanitizer) -> None:
    assert_nothing_is_found(lambda: attention_run(name, 75), sanitizer)


@every_sanitizer
@pytest.mark.parametrize(
    "name", ["two_warps_a_row", "half_filled_block", "table_of_codes", "far_scores"]
)
def test_the_cases_that_bugs_are_planted_in(name: str, sanitizer: Sanitizer) -> None:
    assert_nothing_is_found(lambda: CASES[name](75), sanitizer)


@every_sanitizer
@pytest.mark.parametrize("make", [integer_gelu, integer_layernorm])
def test_integer_kernels(make: Callable[[int], Run], sanitizer: Sanitizer) -> None:
    assert_nothing_is_found(lambda: make(80), sanitizer)
