from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.plugins.gelu_cases import SCALARS, exact_steps, random_tensors
from tests.plugins.reference_library import build, needs_compiler, pointer
from trt_int8.plugins.gelu import GeluForm
from trt_int8.plugins.gelu_model import bias_gelu_quant

pytestmark = needs_compiler

BODY = """
template <typename X>
static void run(const int* ints, const double* reals, const void* x, const uint16_t* bias,
                double* activated, int8_t* y) {
    const reference::BiasGelu<X> node = {ints[0], ints[1], static_cast<const X*>(x),
                                         reals[0], bias, reals[1], ints[2] != 0};
    reference::bias_gelu_quant(node, activated, y);
}
extern "C" void run_case(const int* ints, const double* reals, const void* x,
                         const uint16_t* bias, double* activated, int8_t* y) {
    ints[3] ? run<int8_t>(ints, reals, x, bias, activated, y)
            : run<uint16_t>(ints, reals, x, bias, activated, y);
}
"""

FORMS = [
    GeluForm(768),
    GeluForm(333, tanh=True),
    GeluForm(64, "int8", bias=False),
    GeluForm(100, "int8", tanh=True),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("gelu_reference")
    return build(folder, "bias_gelu_quant_reference.h", BODY)


def run_reference(
    library: ctypes.CDLL, form: GeluForm, x: NDArray[Any], bias: NDArray[np.float16] | None
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """What the C++ reference gives: real numbers, and INT8 codes."""
    ints = (x.shape[0], form.hidden, form.tanh, form.x == "int8")
    reals = (float(np.float32(SCALARS.x_scale)), SCALARS.output_scale)
    activated = np.full(x.shape, np.nan)
    y = np.full(x.shape, 77, np.int8)
    arrays = (pointer(array) for array in (x, bias, activated, y))
    library.run_case((ctypes.c_int * 4)(*ints), (ctypes.c_double * 2)(*reals), *arrays)
    return activated, y


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.hidden))
def test_the_reference_is_the_formula(library: ctypes.CDLL, form: GeluForm) -> None:
    x, bias = random_tensors(form, rows=5)
    activated, _ = run_reference(library, form, x, bias)
    wanted = exact_steps(form, SCALARS, x, bias) * SCALARS.output_scale
    np.testing.assert_allclose(activated, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.hidden))
def test_the_model_is_at_most_one_step_from_the_reference_on_at_most_a_thousandth(
    library: ctypes.CDLL, form: GeluForm
) -> None:
    x, bias = random_tensors(form, rows=-(-60_000 // form.hidden))
    _, wanted = run_reference(library, form, x, bias)
    difference = np.abs(bias_gelu_quant(form, SCALARS, x, bias).astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_every_half_gives_what_the_reference_gives(library: ctypes.CDLL) -> None:
    form = GeluForm(2**16, bias=False)
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)[None]
    _, wanted = run_reference(library, form, x, None)
    difference = bias_gelu_quant(form, SCALARS, x).astype(int) - wanted
    assert np.abs(difference).max() <= 1
    assert (difference != 0).sum() <= 65
    special = ~np.isfinite(x)
    assert (difference[special] == 0).all()
