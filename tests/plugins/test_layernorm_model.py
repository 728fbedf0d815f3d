from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugins.layernorm_cases import SCALARS, codes, exact, random_tensors, run_model
from trt_int8.errors import PluginError
from trt_int8.plugins.layernorm import LayerNormForm
from trt_int8.plugins.layernorm_model import (
    LayerNormTensors,
    inverse_square_root,
    skip_layernorm_quant,
)

FORMS = [
    LayerNormForm(768),
    LayerNormForm(768, bias=True, half=True, sum=True),
    LayerNormForm(384, x="int8", residual="int8"),
    LayerNormForm(1023, x="int8", residual="float16", bias=True),
    LayerNormForm(4096, residual="int8", sum=True),
    LayerNormForm(2500, residual=None, half=True),
    LayerNormForm(768, rms=True),
    LayerNormForm(1600, x="int8", residual=None, rms=True, half=True),
    LayerNormForm(7, half=True),
    LayerNormForm(1),
]


def named(form: LayerNormForm) -> str:
    return f"{form.hidden}-{form.x}-{form.residual}-{'rms' if form.rms else 'layer'}"


def with_x(tensors: LayerNormTensors, x: np.ndarray) -> LayerNormTensors:
    return replace(tensors, x=x)


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_codes_are_at_most_one_step_from_float64_on_at_most_a_thousandth(
    form: LayerNormForm,
) -> None:
    tensors = random_tensors(form, rows=-(-60_000 // form.hidden))
    wanted = codes(exact(form, SCALARS, tensors).steps).astype(int)
    difference = np.abs(skip_layernorm_quant(form, SCALARS, tensors).y.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_most_codes_of_the_random_rows_differ_from_zero() -> None:
    y = skip_layernorm_quant(FORMS[0], SCALARS, random_tensors(FORMS[0], 8)).y
    assert (y != 0).mean() > 0.9
    assert y.min() == -128


@pytest.mark.parametrize("form", [form for form in FORMS if form.half], ids=named)
def test_the_half_output_is_the_float64_row_within_one_rounding(form: LayerNormForm) -> None:
    tensors = random_tensors(form, rows=9)
    half = skip_layernorm_quant(form, SCALARS, tensors).y_half
    wanted = exact(form, SCALARS, tensors).normalised
    assert half is not None
    # Half a unit in the last place of binary16, and the float32 error before it.
    np.testing.assert_allclose(half, wanted, rtol=2.0**-11 + 1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [form for form in FORMS if form.sum], ids=named)
def test_the_sum_output_is_x_plus_bias_plus_residual(form: LayerNormForm) -> None:
    tensors = random_tensors(form, rows=9)
    summed = skip_layernorm_quant(form, SCALARS, tensors).sum
    assert summed is not None
    np.testing.assert_allclose(
        summed, exact(form, SCALARS, tensors).sum, rtol=2.0**-11 + 1e-6, atol=1e-6
    )


@given(bits=st.integers(0x00800000, 0x7F7FFFFF))
def test_the_inverse_square_root_is_within_its_bound(bits: int) -> None:
    v = np.array([bits], np.int32).view(np.float32)
    wanted = 1 / np.sqrt(v.astype(np.float64))
    assert np.abs(inverse_square_root(v) / wanted - 1).max() <= 2e-7


def test_the_inverse_square_root_of_nan_and_infinity_is_nan() -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        assert np.isnan(inverse_square_root(np.array([np.nan, np.inf], np.float32))).all()


@given(value=st.floats(-60000, 60000, width=16), hidden=st.sampled_from([1, 100, 333, 768, 3072]))
def test_a_row_of_equal_elements_gives_beta(value: float, hidden: int) -> None:
    form = LayerNormForm(hidden, residual=None)
    x = np.full((1, hidden), value, np.float16)
    tensors = with_x(random_tensors(form, 1), x)
    assert tensors.beta is not None
    beta = codes(tensors.beta.astype(np.float64) / SCALARS.output_scale)
    assert (run_model(form, tensors).y == beta).all()


@given(code=st.integers(-128, 127), scale=st.floats(2.0**-10, 500.0, width=32))
def test_equal_codes_with_any_scale_give_beta_too(code: int, scale: float) -> None:
    # scale * code has 24 bits, so its sum over a row is rounded and the first mean is off.
    form = LayerNormForm(768, x="int8", residual=None)
    tensors = with_x(random_tensors(form, 1), np.full((1, 768), code, np.int8))
    assert tensors.beta is not None
    beta = codes(tensors.beta.astype(np.float64) / SCALARS.output_scale)
    assert (run_model(form, tensors, x_scale=scale).y == beta).all()


@given(shift=st.integers(-500, 500))
def test_a_constant_added_to_a_row_does_not_change_layernorm(shift: int) -> None:
    # Multiples of 1/4 below 512: the shift is exact in half.
    form = LayerNormForm(384, residual=None)
    rng = np.random.default_rng(abs(shift))
    tensors = with_x(random_tensors(form, 4), rng.integers(-8, 9, (4, 384)).astype(np.float16) / 4)
    moved = with_x(tensors, tensors.x + np.float16(shift))
    difference = np.abs(run_model(form, tensors).y.astype(int) - run_model(form, moved).y)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@given(power=st.integers(-6, 6))
def test_a_row_times_a_power_of_two_does_not_change_rmsnorm(power: int) -> None:
    form = LayerNormForm(384, residual=None, rms=True)
    tensors = random_tensors(form, 4)
    scaled = with_x(tensors, tensors.x.astype(np.float32) * np.float32(2.0**power))
    scaled = with_x(scaled, scaled.x.astype(np.float16))
    assert (run_model(form, tensors).y == run_model(form, scaled).y).mean() >= 0.999


def test_a_constant_does_change_rmsnorm() -> None:
    form = LayerNormForm(384, residual=None, rms=True)
    tensors = random_tensors(form, 4)
    moved = with_x(tensors, tensors.x + np.float16(4))
    assert (run_model(form, tensors).y != run_model(form, moved).y).mean() > 0.5


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_with_nan_or_infinity_gives_zeros_and_leaves_the_others(
    bad: float, rms: bool
) -> None:
    form = LayerNormForm(333, residual=None, rms=rms, half=True, sum=True)
    tensors = random_tensors(form, 3)
    x = tensors.x.copy()
    x[1, 40] = bad
    clean, hurt = run_model(form, tensors), run_model(form, with_x(tensors, x))
    assert hurt.y_half is not None
    assert hurt.sum is not None
    assert (hurt.y[1] == 0).all()
    assert np.isnan(hurt.y_half[1]).all()
    assert np.isfinite(hurt.sum[1]).sum() == 332
    assert (hurt.y[[0, 2]] == clean.y[[0, 2]]).all()


def test_large_rows_saturate() -> None:
    form = LayerNormForm(64, residual=None)
    tensors = random_tensors(form, 3)
    tensors = replace(tensors, gamma=np.full(64, 1000, np.float16))
    assert set(np.unique(run_model(form, tensors).y)) >= {-128, 127}


def test_the_largest_halves_do_not_overflow_the_variance() -> None:
    form = LayerNormForm(4096, bias=True)
    sign = np.where(np.arange(4096) % 2, 1, -1)
    row = (65504 * sign).astype(np.float16)
    tensors = LayerNormTensors(
        x=row[None],
        gamma=np.ones(4096, np.float16),
        bias=row,
        residual=row[None],
        beta=np.zeros(4096, np.float16),
    )
    assert (run_model(form, tensors, output_scale=0.5).y == 2 * sign).all()


def test_a_row_of_zeros_with_a_tiny_epsilon_stays_finite_in_rmsnorm() -> None:
    form = LayerNormForm(128, residual=None, rms=True, half=True)
    tensors = with_x(random_tensors(form, 1), np.zeros((1, 128), np.float16))
    half = run_model(form, tensors, epsilon=1e-30).y_half
    assert half is not None
    assert (half == 0).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    form = LayerNormForm(768)
    tensors = random_tensors(form, 6)
    assert tensors.residual is not None
    alone = replace(tensors, x=tensors.x[4:5], residual=tensors.residual[4:5])
    assert (run_model(form, alone).y == run_model(form, tensors).y[4:5]).all()


def test_a_tensor_of_the_wrong_type_is_refused_by_name() -> None:
    form = LayerNormForm(64)
    wrong: np.ndarray = np.zeros((2, 64), np.float32)
    with pytest.raises(PluginError, match=r"got residual = \('float32', \(2, 64\)\)"):
        run_model(form, replace(random_tensors(form, 2), residual=wrong))


def test_a_missing_tensor_is_refused_by_name() -> None:
    form = LayerNormForm(64)
    with pytest.raises(PluginError, match=r"got beta = nothing; wanted float16 \[64\]"):
        run_model(form, replace(random_tensors(form, 2), beta=None))
