"""The integer-only kernels under g++'s sanitizers: no signed overflow, nothing out of bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.test_integer_ops import rows_of, weights
from tests.kernels.tools import needs_gxx
from trt_int8.plugins import integer_ops_model as model
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerSoftmax
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, Output

pytestmark = [needs_gxx, pytest.mark.sanitizer]
SHAPES = [(3, 1), (5, 33), (6, 64)]


def run_sanitized(launch: KernelLaunch, arguments: Sequence[Argument]) -> None:
    """AddressSanitizer, and UndefinedBehaviorSanitizer, which sees signed overflow and shifts."""
    Emulator(sanitizer="address").run(launch, arguments)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [2e-14, 5e-5, 1.0, 1e5])
def test_softmax(shape: tuple[int, int], scale: float) -> None:
    op, scores = IntegerSoftmax(scale), rows_of(*shape)
    out = np.empty(shape, np.uint8)
    run_sanitized(op.launch(*shape, 75), [Input(scores), *op.arguments(*shape), Output(out)])
    np.testing.assert_array_equal(out, model.softmax(op, scores))


@pytest.mark.parametrize(("scale", "output"), [(2e-5, 0.08), (5e-6, 0.001), (1 / 256, 0.08)])
def test_gelu(scale: float, output: float) -> None:
    op, x = IntegerGelu(scale, output), rows_of(5, 33, 1 / scale).reshape(-1)
    out = np.empty(x.shape, np.int8)
    run_sanitized(op.launch(x.size, 75), [Input(x), *op.arguments(x.size), Output(out)])
    np.testing.assert_array_equal(out, model.gelu(op, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3.0, 4e8])
def test_layernorm(shape: tuple[int, int], size: float) -> None:
    op, x = weights(shape[1]), rows_of(*shape, size)
    out = np.empty(shape, np.int8)
    inputs = [Input(x), *(Input(array) for array in op.channel_inputs())]
    run_sanitized(op.launch(len(x), 75), [*inputs, *op.arguments(len(x)), Output(out)])
    np.testing.assert_array_equal(out, model.layernorm(op, x))
