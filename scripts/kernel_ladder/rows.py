"""Versions of skip_layernorm_quant and bias_gelu_quant."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.kernel_ladder.rung import Change, Judge, Rung, Trial
from tests.plugins import gelu_cases, layernorm_cases
from trt_int8.plugins import gelu, layernorm
from trt_int8.plugins.gelu import GeluForm
from trt_int8.plugins.gelu_model import bias_gelu_quant
from trt_int8.plugins.layernorm import LayerNormForm
from trt_int8.plugins.layernorm_model import skip_layernorm_quant

# Both contracts against float64, for versions with another order of additions.
MOST_STEPS, MOST_SHARE = 1, 0.001

_GELU = "bias_gelu_quant.cu"
_NO_TABLE = (
    Change(_GELU, "#define USES_TABLE (X_KIND == 2 && !HAS_BIAS)", "#define USES_TABLE 0"),
    Change(
        _GELU,
        "#if X_KIND == 2\n        values[i] = fmaf(",
        "#if X_KIND == 2 && !HAS_BIAS\n"
        "        values[i] = elements::int8_at(packed, i) * x_scale;\n"
        "#elif X_KIND == 2\n"
        "        values[i] = fmaf(",
    ),
)
_SHIFT_AND_MASK = (
    Change(
        _GELU,
        "table[ptx::permute_bytes(entries, 0, 0x4440u + i % 4)]",
        "table[(entries >> (8 * (i % 4))) & 0xffu]",
    ),
)


def _width(elements: int, accesses: int) -> tuple[tuple[str, int], ...]:
    return (("WIDTH", elements), ("VECTORS", accesses))


LAYERNORM_ROWS = 128
LAYERNORM = LayerNormForm(768, bias=True)
LAYERNORM_RUNGS = (
    Rung(
        "v1 a thread per row, three passes",
        "no",
        source="layernorm_thread_per_row.cu",
        blocks=1,
        threads=128,
        judge="contract",
    ),
    Rung(
        "v2 a warp per row in registers, 1 element per access",
        "where H is odd, on more lanes",
        defines=_width(1, 24),
        judge="contract",
    ),
    Rung("2 elements", "where H % 4 == 2, on more lanes", defines=_width(2, 12), judge="contract"),
    Rung("4 elements", "where H % 8 == 4", defines=_width(4, 6), judge="contract"),
    Rung("**v3 8 elements, shipped**", "**yes**"),
)

LAYERNORM_INT8 = LayerNormForm(1024, x="int8", residual="int8")
LAYERNORM_INT8_RUNGS = (
    Rung(
        "v4 16 elements",
        "no: gamma and beta lie 32 bytes apart per lane",
        defines=_width(16, 2),
        judge="contract",
    ),
    Rung("**8 elements, shipped**", "**yes**"),
)

LAYERNORM_SHORT = LayerNormForm(384, bias=True)
LAYERNORM_SHORT_RUNGS = (
    Rung(
        "32 lanes per row",
        "no: a quarter of the lanes idle",
        defines=(("LANES", 32), ("VECTORS", 2)),
        blocks=LAYERNORM_ROWS // 4,
        judge="contract",
    ),
    Rung("**16 lanes per row, shipped**", "**yes**"),
)

GELU_ROWS = 8
GELU = GeluForm(3072)
GELU_RUNGS = (
    Rung(
        "v1 1 element per access",
        "where H is odd",
        defines=(("WIDTH", 1),),
        blocks=GELU_ROWS * 3072 // 256,
    ),
    Rung("**v2 8 elements, shipped**", "**yes**"),
)
GELU_TABLE = GeluForm(3072, "int8", bias=False)
GELU_TABLE_RUNGS = (
    Rung("v2 arithmetic for each element", "no", changes=_NO_TABLE),
    Rung("v3 table, bytes by shift and mask", "no", changes=_SHIFT_AND_MASK),
    Rung("**v4 table, bytes by `prmt`, shipped**", "**yes**"),
)


def layernorm_trial(form: LayerNormForm, sm: int) -> Trial:
    """Random rows; the model's bits, or float64 within the contract."""
    tensors = layernorm_cases.random_tensors(form, LAYERNORM_ROWS)
    arguments, results = layernorm_cases.kernel_arguments(form, layernorm_cases.SCALARS, tensors)
    wanted = skip_layernorm_quant(form, layernorm_cases.SCALARS, tensors)
    exact = layernorm_cases.codes(
        layernorm_cases.exact(form, layernorm_cases.SCALARS, tensors).steps
    )

    def complaint(judge: Judge) -> str:
        if judge == "bits":
            same = layernorm_cases.same_bits(results, wanted)
            return "" if same else "other bits than the model"
        return apart(results.y, exact)

    return Trial(layernorm.launch(form, LAYERNORM_ROWS, sm), arguments, complaint)


def gelu_trial(form: GeluForm, sm: int) -> Trial:
    """Random rows; the model's bits, or float64 within the contract."""
    x, bias = gelu_cases.random_tensors(form, GELU_ROWS)
    arguments, y = gelu_cases.kernel_arguments(gelu_cases.SCALARS, x, bias)
    wanted = bias_gelu_quant(form, gelu_cases.SCALARS, x, bias)
    exact = gelu_cases.codes(gelu_cases.exact_steps(form, gelu_cases.SCALARS, x, bias))

    def complaint(judge: Judge) -> str:
        if judge == "bits":
            return "" if np.array_equal(y, wanted) else "other bits than the model"
        return apart(y, exact)

    return Trial(gelu.launch(form, GELU_ROWS, sm), arguments, complaint)


def apart(codes: NDArray[Any], exact: NDArray[Any]) -> str:
    """What is wrong with codes that may be a step off on a thousandth of elements; or ""."""
    steps = np.abs(codes.astype(int) - exact.astype(int))
    if steps.max() > MOST_STEPS or (steps > 0).mean() > MOST_SHARE:
        return f"{np.count_nonzero(steps)} of {steps.size} codes differ, by up to {steps.max()}"
    return ""
