"""BiasGeluQuant in NumPy: the contract of `cuda/bias_gelu_quant.cu`, bit for bit."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import PluginError
from trt_int8.plugins.float32 import (
    FloatArray,
    HalfArray,
    Int8Array,
    fused_multiply_add,
    to_int8,
)
from trt_int8.plugins.gelu import GeluForm, GeluScalars
from trt_int8.plugins.scales import inverse_scale

# max(v, 0) - gelu(v), on [0, TAIL_END] of |v|; beyond it the value at TAIL_END stands.
TAIL_END: Final = 5.25
# |gelu(v) - exact| <= GELU_ERROR + 2^-24 |v| in float32: 4.3e-7 of the polynomial, 4e-7 of the tail
# cut off at TAIL_END, and rounding; tested against scipy in float64.
GELU_ERROR: Final = 7e-7
# Powers of t = 2a / TAIL_END - 1 from the highest, float32: the polynomial through the 16 Chebyshev
# points of the tail a/2 erfc(a / sqrt(2)), and of a / (1 + exp(2 sqrt(2/pi) (a + 0.044715 a^3))).
ERF_TAIL: Final = (
    *(0.004436884541064501, 0.019811052829027176, -0.05063851922750473, -0.07489708811044693),
    *(0.21175755560398102, 0.035249561071395874, -0.41470661759376526, 0.29238080978393555),
    *(0.25896844267845154, -0.5809705257415771, 0.35753461718559265, 0.08270083367824554),
    *(-0.29104721546173096, 0.2143528014421463, -0.07630500942468643, 0.011373037472367287),
)
TANH_TAIL: Final = (
    *(-0.006979987025260925, 0.019904740154743195, 0.004088336601853371, -0.08075913041830063),
    *(0.09991220384836197, 0.06085189804434776, -0.28936710953712463, 0.24514098465442657),
    *(0.17793230712413788, -0.5353537797927856, 0.3854973018169403, 0.05904920771718025),
    *(-0.29445698857307434, 0.22026225924491882, -0.07662627846002579, 0.0109040392562747),
)


def gelu(v: FloatArray, *, tanh: bool) -> FloatArray:
    """GELU in float32 as the kernel computes it, any shape; NaN gives a number near 0."""
    coefficients = np.array(TANH_TAIL if tanh else ERF_TAIL, np.float32)
    end = np.float32(TAIL_END)
    # fmin and fmax take the number where the other is NaN, as PTX min and max do.
    t = fused_multiply_add(np.fmin(np.abs(v), end), np.float32(2) / end, np.float32(-1))
    tail: FloatArray = np.broadcast_to(coefficients[0], t.shape)
    for coefficient in coefficients[1:]:
        tail = fused_multiply_add(tail, t, coefficient)
    result: FloatArray = np.fmax(v, np.float32(0)) - tail
    return result


def bias_gelu_quant(
    form: GeluForm,
    scalars: GeluScalars,
    x: NDArray[np.float16] | Int8Array,
    bias: HalfArray | None = None,
) -> Int8Array:
    """What the kernel writes, with the same bits.

    Args:
        form: types, bias and kind of GELU.
        scalars: scales of `x` (int8 only) and of the output.
        x: float16 or int8 [rows, H].
        bias: float16 [H], or None.

    Returns:
        int8 [rows, H].

    Raises:
        PluginError: a tensor's type or shape is not what the form says.
    """
    _check(form, x, bias)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        v = x.astype(np.float32)
        addend = None if bias is None else bias.astype(np.float32)
        if x.dtype == np.int8:
            step = np.float32(scalars.x_scale)
            v = v * step if addend is None else fused_multiply_add(v, step, addend)
        elif addend is not None:
            v = v + addend
        return to_int8(gelu(v, tanh=form.tanh) * np.float32(inverse_scale(scalars.output_scale)))


def _check(form: GeluForm, x: NDArray[np.float16] | Int8Array, bias: HalfArray | None) -> None:
    if str(x.dtype) != form.x or x.ndim != 2 or x.shape[1] != form.hidden:
        raise PluginError(
            f"BiasGeluQuant got x = {x.dtype} {list(x.shape)}",
            wanted=f"{form.x} [rows, {form.hidden}]",
            todo="give the tensors that the form names",
        )
    came = None if bias is None else (str(bias.dtype), bias.shape)
    if came != (("float16", (form.hidden,)) if form.bias else None):
        raise PluginError(
            f"BiasGeluQuant got bias = {came or 'nothing'}",
            wanted=f"float16 [{form.hidden}]" if form.bias else "nothing",
            todo="give the tensors that the form names",
        )
