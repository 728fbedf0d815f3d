from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import erfc

from tests.plugins.gelu_cases import SCALARS, codes, exact_gelu, exact_steps, random_tensors
from trt_int8.errors import PluginError
from trt_int8.plugins.gelu import GeluForm, Kind
from trt_int8.plugins.gelu_model import (
    ERF_TAIL,
    GELU_ERROR,
    TAIL_END,
    TANH_TAIL,
    bias_gelu_quant,
    gelu,
)
from trt_int8.plugins.kernel import kernel_folder

KINDS = pytest.mark.parametrize("tanh", [False, True], ids=["erf", "tanh"])
FORMS = [
    GeluForm(hidden, x, bias=bias, tanh=tanh)
    for hidden, (x, bias, tanh) in zip(
        (3072, 1536, 77, 512, 100, 1, 4096, 999),
        product(get_args(Kind), (False, True), (False, True)),
        strict=True,
    )
]


def error(v: NDArray[np.float32], *, tanh: bool) -> NDArray[np.float64]:
    """|gelu - exact|, less what one rounding of the result may add."""
    difference = np.abs(gelu(v, tanh=tanh) - exact_gelu(v.astype(np.float64), tanh=tanh))
    return difference - 2.0**-24 * np.abs(v)


@KINDS
def test_gelu_is_within_its_bound_of_scipy_on_a_fine_grid(tanh: bool) -> None:
    assert error(np.linspace(-20, 20, 400_001, dtype=np.float32), tanh=tanh).max() <= GELU_ERROR


@given(v=st.floats(width=32, allow_nan=False, allow_infinity=False), tanh=st.booleans())
def test_gelu_is_within_its_bound_everywhere(v: float, tanh: bool) -> None:
    assert error(np.array([v], np.float32), tanh=tanh).max() <= GELU_ERROR


@KINDS
def test_the_bound_is_not_far_from_the_worst_error(tanh: bool) -> None:
    worst = error(np.linspace(-20, 20, 400_001, dtype=np.float32), tanh=tanh).max()
    assert worst > 0.5 * GELU_ERROR


def test_the_two_forms_differ() -> None:
    v = np.linspace(-4, 4, 1001, dtype=np.float32)
    assert np.abs(gelu(v, tanh=False) - gelu(v, tanh=True)).max() > 100 * GELU_ERROR


def tail(a: NDArray[np.float64], *, tanh: bool) -> NDArray[np.float64]:
    if tanh:
        result = a / (1 + np.exp(2 * np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    else:
        result = a / 2 * erfc(a / np.sqrt(2))
    return np.asarray(result, np.float64)


@KINDS
def test_the_coefficients_are_those_of_the_chebyshev_interpolation(tanh: bool) -> None:
    series = chebyshev.Chebyshev.interpolate(lambda t: tail((t + 1) * TAIL_END / 2, tanh=tanh), 15)
    powers = chebyshev.cheb2poly(series.coef)[::-1]
    # 2e-8: what the conversion to powers may round differently from platform to platform.
    np.testing.assert_allclose(TANH_TAIL if tanh else ERF_TAIL, powers, rtol=2.0**-24, atol=2e-8)


@KINDS
def test_the_kernel_has_the_coefficients_of_the_model(tanh: bool) -> None:
    # A last bit that differs would hardly ever move a code.
    source = (kernel_folder() / "bias_gelu_quant.cu").read_text(encoding="utf-8")
    first, second = re.findall(r"float c\[16\] = \{([^}]*)\}", source)
    written = [
        np.float32(text.rstrip("f")) for text in re.split(r",\s*", first if tanh else second)
    ]
    assert written == [np.float32(value) for value in (TANH_TAIL if tanh else ERF_TAIL)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.hidden}-{form.x}")
def test_codes_are_at_most_one_step_from_float64_on_at_most_a_thousandth(form: GeluForm) -> None:
    x, bias = random_tensors(form, rows=-(-60_000 // form.hidden))
    wanted = codes(exact_steps(form, SCALARS, x, bias)).astype(int)
    difference = np.abs(bias_gelu_quant(form, SCALARS, x, bias).astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_the_random_rows_saturate_and_reach_the_dip_below_zero() -> None:
    x, bias = random_tensors(FORMS[2], rows=100)
    y = bias_gelu_quant(FORMS[2], SCALARS, x, bias)
    assert y.max() == 127
    assert y.min() == round(-0.17 / SCALARS.output_scale)


@pytest.mark.parametrize("form", [GeluForm(5), GeluForm(5, tanh=True)], ids=["erf", "tanh"])
def test_nan_gives_zero_and_infinities_their_limits(form: GeluForm) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 65504, -65504]], np.float16)
    y = bias_gelu_quant(form, SCALARS, x, np.zeros(5, np.float16))
    assert y.tolist() == [[0, 127, 0, 127, 0]]


@given(shift=st.integers(0, 127), tanh=st.booleans())
def test_gelu_of_x_and_of_minus_x_differ_by_x(shift: int, tanh: bool) -> None:
    # gelu(v) - gelu(-v) = v, as erf and tanh are odd.
    v = np.array([shift / 8], np.float32)
    both = gelu(v, tanh=tanh).astype(np.float64) - gelu(-v, tanh=tanh)
    np.testing.assert_allclose(both, v, atol=1e-6 * max(1.0, shift / 8))


@given(code=st.integers(-128, 127), scale=st.floats(2.0**-10, 8.0, width=32))
def test_codes_without_bias_give_what_a_zero_bias_gives(code: int, scale: float) -> None:
    x = np.array([[code]], np.int8)
    scalars = replace(SCALARS, x_scale=scale)
    without = bias_gelu_quant(GeluForm(1, "int8", bias=False), scalars, x)
    zero = bias_gelu_quant(GeluForm(1, "int8"), scalars, x, np.zeros(1, np.float16))
    assert (without == zero).all()


def test_a_tensor_of_the_wrong_type_is_refused() -> None:
    x: NDArray[Any] = np.zeros((2, 8), np.float32)
    with pytest.raises(PluginError, match=r"got x = float32 \[2, 8\]; wanted float16 \[rows, 8\]"):
        bias_gelu_quant(GeluForm(8, bias=False), SCALARS, x)


def test_a_missing_or_unwanted_bias_is_refused() -> None:
    x, bias = np.zeros((2, 8), np.float16), np.zeros(8, np.float16)
    with pytest.raises(PluginError, match=r"got bias = nothing; wanted float16 \[8\]"):
        bias_gelu_quant(GeluForm(8), SCALARS, x)
    with pytest.raises(PluginError, match="wanted nothing"):
        bias_gelu_quant(GeluForm(8, bias=False), SCALARS, x, bias)
