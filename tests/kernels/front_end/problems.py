"""Plugin layers with inputs to run them on, and the answers of the NumPy models.

How a layer's attributes and features become a model's options is written here a second time, apart
from `trt_int8/plugins/plans.py`, so that the two are checked against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.kernels.front_end.cases import Case
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars
from trt_int8.plugins.attention_model import AttentionTensors, int8_attention
from trt_int8.plugins.gelu import GeluForm, GeluScalars
from trt_int8.plugins.gelu_model import bias_gelu_quant
from trt_int8.plugins.layernorm import LayerNormForm, LayerNormScalars
from trt_int8.plugins.layernorm_model import LayerNormTensors, skip_layernorm_quant

Array = NDArray[Any]
Shape = tuple[int | str, ...]


def layer(name: str, inputs: str, sizes: tuple[dict[str, int], ...], **attributes: Any) -> Case:
    """A case from a text such as "HALF b s 48; HALF 48"."""
    parts = [part.split() for part in inputs.split(";")]
    shapes = tuple(tuple(int(d) if d.isdigit() else d for d in part[1:]) for part in parts)
    kinds = tuple(part[0] for part in parts)
    return Case(f"trt_int8::{name}", kinds, shapes, attributes, sizes)


def attention(name: str, inputs: str, sizes: tuple[dict[str, int], ...], **other: Any) -> Case:
    """An attention layer with usual scales."""
    scales = {"q_scale": 0.021, "k_scale": 0.03, "v_scale": 0.017, "output_scale": 0.004}
    given = {**scales, "softmax_scale": 0.125, "causal": 0, "half_output": 0, **other}
    return layer(name, inputs, sizes, **given)


def layernorm(name: str, inputs: str, sizes: tuple[dict[str, int], ...], **other: Any) -> Case:
    """A LayerNorm layer with usual scales."""
    given = {"x_scale": 0.05, "residual_scale": 0.03, "output_scale": 0.027, "epsilon": 1e-5}
    return layer(name, inputs, sizes, **{**given, **other})


def gelu(name: str, inputs: str, sizes: tuple[dict[str, int], ...], *, tanh: int) -> Case:
    """A GELU layer with usual scales."""
    return layer(name, inputs, sizes, x_scale=0.04, output_scale=0.02, tanh=tanh)


PROBLEMS: Final = {
    "attention": attention(
        "int8_attention",
        "INT8 b s 2 64; INT8 b t 2 64; INT8 b t 2 64",
        ({"b": 1, "s": 1, "t": 1}, {"b": 3, "s": 17, "t": 70}),
    ),
    "attention, causal, half": attention(
        "int8_attention",
        "INT8 b s 3 80; INT8 b s 3 80; INT8 b s 3 80",
        ({"b": 1, "s": 65},),
        causal=1,
        half_output=1,
    ),
    "attention, lengths": attention(
        "int8_attention_lengths",
        "INT8 b s 1 32; INT8 b s 1 32; INT8 b s 1 32; INT32 b",
        ({"b": 3, "s": 33},),
    ),
    "attention, mask of keys": attention(
        "int8_attention_mask",
        "INT8 b s 2 16; INT8 b s 2 16; INT8 b s 2 16; FLOAT b 1 1 s",
        ({"b": 2, "s": 67},),
    ),
    "attention, full mask": attention(
        "int8_attention_mask",
        "INT8 b s 2 64; INT8 b t 2 64; INT8 b t 2 64; FLOAT 1 2 s t",
        ({"b": 2, "s": 5, "t": 9},),
    ),
    "attention, packed": attention(
        "int8_attention_packed", "INT8 b s 3 2 96", ({"b": 1, "s": 66},), causal=1
    ),
    "attention, packed, lengths": attention(
        "int8_attention_packed_lengths", "INT8 b s 3 1 128; INT32 b", ({"b": 2, "s": 19},)
    ),
    "attention, packed, mask": attention(
        "int8_attention_packed_mask", "INT8 b s 3 1 32; FLOAT b 1 s s", ({"b": 3, "s": 7},)
    ),
    "attention, ragged": attention(
        "int8_attention_ragged",
        "INT8 t 2 64; INT8 t 2 64; INT8 t 2 64; INT32 c",
        ({"t": 45, "c": 4},),
    ),
    "attention, fixed sizes": attention(
        "int8_attention", "INT8 2 5 3 64; INT8 2 9 3 64; INT8 2 9 3 64", ({},)
    ),
    "layernorm": layernorm(
        "skip_layernorm_quant",
        "HALF b s 384; HALF b s 384; HALF 384; HALF 384",
        ({"b": 1, "s": 1}, {"b": 3, "s": 7}),
    ),
    "layernorm, all": layernorm(
        "skip_layernorm_quant_bias_half_sum",
        "HALF b s 48; HALF 48; INT8 b s 48; HALF 48; HALF 48",
        ({"b": 5, "s": 11},),
    ),
    "layernorm, rms": layernorm(
        "skip_layernorm_quant_no_residual_rms", "INT8 b 100; HALF 100", ({"b": 9},), epsilon=1e-6
    ),
    "layernorm, wide rows": layernorm(
        "skip_layernorm_quant_bias_sum",
        "INT8 b 1056; HALF 1056; HALF b 1056; HALF 1056; HALF 1056",
        ({"b": 3},),
    ),
    "gelu": gelu(
        "bias_gelu_quant",
        "HALF b s 48; HALF 48",
        ({"b": 1, "s": 1}, {"b": 3, "s": 37}),
        tanh=0,
    ),
    "gelu, one row of fixed size": gelu("bias_gelu_quant", "INT8 50; HALF 50", ({},), tanh=1),
    "gelu, table": gelu("bias_gelu_quant_no_bias", "INT8 b 33", ({"b": 41},), tanh=1),
}


@dataclass(frozen=True)
class Answer:
    """Inputs of one run, and what the outputs must hold."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def solve(case: Case, sizes: dict[str, int]) -> Answer:
    """Inputs of the right shapes and types, the same ones every time, and the model's outputs."""
    generator = np.random.default_rng(len(case.plugin_id) + sum(sizes.values()))
    shapes = [tuple(sizes[d] if isinstance(d, str) else d for d in s) for s in case.shapes]
    inputs = tuple(
        _array(generator, kind, shape, sizes)
        for kind, shape in zip(case.kinds, shapes, strict=True)
    )
    name = case.plugin_id.removeprefix("trt_int8::")
    for prefix, solver in _SOLVERS.items():
        if name.startswith(prefix):
            features = name.removeprefix(prefix).strip("_").split("_")
            return Answer(inputs, solver(features, case.attributes, list(inputs)))
    raise ValueError(f"no solver for {name!r}")


def _array(
    generator: np.random.Generator, kind: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> Array:
    if kind == "INT8":
        return generator.integers(-128, 128, shape, np.int8)
    if kind == "HALF":
        return generator.standard_normal(shape).astype(np.float16)
    if kind == "FLOAT":
        hidden = np.where(generator.random(shape) < 0.3, -1e9, 0.0)
        return (hidden + generator.standard_normal(shape)).astype(np.float32)
    if "c" in sizes:  # cu_seqlens: rising from 0 to the number of tokens
        inner = np.sort(generator.integers(0, sizes["t"] + 1, shape[0] - 2))
        return np.array([0, *inner, sizes["t"]], np.int32)
    return generator.integers(0, sizes["s"] + 1, shape, np.int32)


def _attention(features: list[str], attributes: Any, inputs: list[Array]) -> tuple[Array, ...]:
    extra = inputs.pop() if {"lengths", "mask", "ragged"} & set(features) else None
    mask: Any = "lengths" if "lengths" in features else "none"
    if "mask" in features and extra is not None:
        mask = "keys" if extra.shape[2] == 1 else "full"
    layout: Any = next((f for f in features if f in ("packed", "ragged")), "separate")
    options = AttentionOptions(
        head_dim=inputs[0].shape[-1],
        mask=mask,
        causal=bool(attributes["causal"]),
        layout=layout,
        half_output=bool(attributes["half_output"]),
    )
    names = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")
    scalars = AttentionScalars(*(attributes[name] for name in names))
    return (int8_attention(options, scalars, AttentionTensors(tuple(inputs), extra)),)


def _layernorm(features: list[str], attributes: Any, inputs: list[Array]) -> tuple[Array, ...]:
    remaining = iter(inputs)
    x = next(remaining)
    bias = next(remaining) if "bias" in features else None
    residual = None if "residual" in features else next(remaining)  # of "no_residual"
    gamma = next(remaining)
    beta = None if "rms" in features else next(remaining)
    hidden = x.shape[-1]
    kinds: list[Any] = [None if part is None else str(part.dtype) for part in (x, residual)]
    form = LayerNormForm(
        hidden=hidden,
        x=kinds[0],
        residual=kinds[1],
        bias=bias is not None,
        rms=beta is None,
        half="half" in features,
        sum="sum" in features,
    )
    scalars = LayerNormScalars(
        attributes["output_scale"],
        attributes["epsilon"],
        attributes["x_scale"],
        attributes["residual_scale"],
    )
    rows = None if residual is None else residual.reshape(-1, hidden)
    tensors = LayerNormTensors(x.reshape(-1, hidden), gamma, bias, rows, beta)
    results = skip_layernorm_quant(form, scalars, tensors)
    made = (results.y, results.y_half, results.sum)
    return tuple(array.reshape(x.shape) for array in made if array is not None)


def _gelu(features: list[str], attributes: Any, inputs: list[Array]) -> tuple[Array, ...]:
    x, *bias = inputs
    kind: Any = str(x.dtype)
    form = GeluForm(x.shape[-1], kind, bias=not features[0], tanh=bool(attributes["tanh"]))
    scalars = GeluScalars(attributes["output_scale"], attributes["x_scale"])
    result = bias_gelu_quant(form, scalars, x.reshape(-1, x.shape[-1]), *bias)
    return (result.reshape(x.shape),)


_SOLVERS: Final = {
    "int8_attention": _attention,
    "skip_layernorm_quant": _layernorm,
    "bias_gelu_quant": _gelu,
}
