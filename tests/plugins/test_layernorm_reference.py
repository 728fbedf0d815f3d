from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.layernorm_cases import SCALARS, Exact, exact, random_tensors
from tests.plugins.reference_library import build, needs_compiler, pointer
from trt_int8.plugins.layernorm import LayerNormForm
from trt_int8.plugins.layernorm_model import LayerNormTensors, skip_layernorm_quant

pytestmark = needs_compiler

BODY = """
template <typename X, typename R>
static void run(const int* ints, const double* reals, const void* const* inputs,
                void* const* outputs) {
    const reference::SkipLayerNorm<X, R> node = {
        ints[0], ints[1],
        static_cast<const X*>(inputs[0]), reals[0],
        static_cast<const uint16_t*>(inputs[1]),
        static_cast<const R*>(inputs[2]), reals[1],
        static_cast<const uint16_t*>(inputs[3]), static_cast<const uint16_t*>(inputs[4]),
        reals[2], reals[3], ints[2] != 0};
    reference::skip_layernorm_quant(node, static_cast<double*>(outputs[0]),
                                    static_cast<double*>(outputs[1]),
                                    static_cast<int8_t*>(outputs[2]));
}
extern "C" void run_case(const int* ints, const double* reals, const void* const* inputs,
                         void* const* outputs) {
    if (ints[3]) {
        ints[4] ? run<int8_t, int8_t>(ints, reals, inputs, outputs)
                : run<int8_t, uint16_t>(ints, reals, inputs, outputs);
    } else {
        ints[4] ? run<uint16_t, int8_t>(ints, reals, inputs, outputs)
                : run<uint16_t, uint16_t>(ints, reals, inputs, outputs);
    }
}
"""

FORMS = [
    LayerNormForm(768, bias=True),
    LayerNormForm(333, x="int8", residual="int8"),
    LayerNormForm(1025, residual="int8"),
    LayerNormForm(64, x="int8", residual=None, rms=True, bias=True),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("layernorm_reference")
    return build(folder, "skip_layernorm_quant_reference.h", BODY)


def run_reference(
    library: ctypes.CDLL, form: LayerNormForm, tensors: LayerNormTensors
) -> tuple[Exact, np.ndarray]:
    """What the C++ reference gives: real numbers, and INT8 codes."""
    rows = tensors.x.shape[0]
    ints = [rows, form.hidden, form.rms, form.x == "int8", form.residual == "int8"]
    scales = (SCALARS.x_scale, SCALARS.residual_scale, SCALARS.epsilon, SCALARS.output_scale)
    reals = [*(float(np.float32(scale)) for scale in scales[:2]), *scales[2:]]
    inputs = (tensors.x, tensors.bias, tensors.residual, tensors.gamma, tensors.beta)
    summed, normalised = np.full((2, rows, form.hidden), np.nan)
    y = np.full((rows, form.hidden), 77, np.int8)
    library.run_case(
        (ctypes.c_int * 5)(*ints),
        (ctypes.c_double * 4)(*reals),
        (ctypes.c_void_p * 5)(*(pointer(array) for array in inputs)),
        (ctypes.c_void_p * 3)(*(pointer(array) for array in (summed, normalised, y))),
    )
    return Exact(normalised / SCALARS.output_scale, normalised, summed), y


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.hidden))
def test_the_reference_is_the_formula(library: ctypes.CDLL, form: LayerNormForm) -> None:
    tensors = random_tensors(form, rows=5)
    came, _ = run_reference(library, form, tensors)
    wanted = exact(form, SCALARS, tensors)
    np.testing.assert_allclose(came.normalised, wanted.normalised, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(came.sum, wanted.sum, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.hidden))
def test_the_model_is_at_most_one_step_from_the_reference_on_at_most_a_thousandth(
    library: ctypes.CDLL, form: LayerNormForm
) -> None:
    tensors = random_tensors(form, rows=-(-60_000 // form.hidden))
    _, wanted = run_reference(library, form, tensors)
    came = skip_layernorm_quant(form, SCALARS, tensors).y
    difference = np.abs(came.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 65504.0])
def test_the_reference_treats_odd_rows_as_the_model_does(library: ctypes.CDLL, bad: float) -> None:
    for form in (LayerNormForm(100, residual=None), LayerNormForm(100, residual=None, rms=True)):
        tensors = random_tensors(form, rows=3)
        tensors.x[1, 7] = bad
        with np.errstate(invalid="ignore", over="ignore"):
            _, wanted = run_reference(library, form, tensors)
        assert (skip_layernorm_quant(form, SCALARS, tensors).y == wanted).all()
