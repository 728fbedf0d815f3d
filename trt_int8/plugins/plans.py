"""From a plugin call to the launch of its kernel, for every family."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Final, Literal, cast

from trt_int8.errors import PluginError
from trt_int8.plugins import attention, gelu, layernorm
from trt_int8.plugins.calls import PlannedKernel, PluginCall, Size, Sizes

# One letter per dimension; the same letter is the same size. S queries, K keys, T tokens. The first
# three of a mask may be 1 instead, which `attention.check_shape` knows.
_LETTERS: Final = {
    "q": "BSND",
    "k": "BKND",
    "v": "BKND",
    "qkv": "BS3ND",
    "key_lengths": "B",
    "mask": "...K",
}
_RAGGED_LETTERS: Final = {"q": "TND", "k": "TND", "v": "TND", "cu_seqlens": "."}


def plan_call(call: PluginCall) -> PlannedKernel:
    """The launch that carries out one call; grid and integers are sizes like those of the call.

    Limits on sizes are checked where all sizes are numbers.

    Raises:
        PluginError: the kernel does not do these sizes, types or attributes.
    """
    return _PLANNERS[call.signature.family](call)


def _plan_attention(call: PluginCall) -> PlannedKernel:
    features = call.signature.features
    ragged, packed = "ragged" in features, "packed" in features
    sizes = _bind(call, _RAGGED_LETTERS if ragged else _LETTERS)
    queries = sizes["T" if ragged else "S"]
    keys = queries if ragged or packed else sizes["K"]
    mask = call.sizes_of("mask")[:3] if "mask" in features else (1, 1, 1)
    shape = attention.AttentionShape(
        batch=call.sizes_of("cu_seqlens")[0] - 1 if ragged else sizes["B"],
        queries=queries,
        keys=keys,
        heads=sizes["N"],
        mask=cast(tuple[int, int, int], mask),
    )
    options = attention.AttentionOptions(
        head_dim=call.known_size("qkv" if packed else "q", -1),
        mask=_mask_kind(features, mask),
        causal=_switch(call, "causal"),
        layout="ragged" if ragged else "packed" if packed else "separate",
        half_output=_switch(call, "half_output"),
    )
    names = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")
    scalars = attention.AttentionScalars(**{name: call.attributes[name] for name in names})
    if call.all_known:
        attention.check_shape(options, shape)
    return PlannedKernel(
        attention.variant(options, call.sm),
        (attention.grid_blocks(options, shape.queries), shape.heads, shape.batch),
        attention.BLOCK,
        options.shared_bytes,
        attention.integer_arguments(options, shape, scalars),
    )


def _mask_kind(features: tuple[str, ...], mask: Sizes) -> attention.MaskKind:
    if "mask" in features:
        return "keys" if isinstance(mask[2], int) and mask[2] == 1 else "full"
    return "lengths" if "lengths" in features else "none"


def _bind(call: PluginCall, letters: dict[str, str]) -> dict[str, Size]:
    """Size of each letter: a number wherever one tensor knows it.

    Raises:
        PluginError: two tensors give one letter different numbers.
    """
    bound: dict[str, Size] = {"3": 3}
    for spec, sizes in zip(call.signature.inputs, call.sizes, strict=True):
        for letter, size in zip(letters[spec.name], sizes, strict=True):
            known = bound.setdefault(letter, size)
            if letter == "." or not isinstance(size, int):
                continue
            if isinstance(known, int) and known != size:
                raise PluginError(
                    f"{call.signature.name}: {spec.name!r} is {_text(sizes)}, but {letter} is"
                    f" {known}",
                    wanted=", ".join(
                        f"{s.name} [{', '.join(letters[s.name])}]" for s in call.signature.inputs
                    ),
                    todo="correct the model's shapes, or leave this plugin out (--plugins)",
                )
            bound[letter] = size
    return bound


def _plan_layernorm(call: PluginCall) -> PlannedKernel:
    features = call.signature.features
    hidden = _hidden(call)
    form = layernorm.LayerNormForm(
        hidden=hidden,
        x=_row_kind(call, "x"),
        residual=None if "no_residual" in features else _row_kind(call, "residual"),
        bias="bias" in features,
        rms="rms" in features,
        half="half" in features,
        sum="sum" in features,
    )
    scalars = layernorm.LayerNormScalars(
        output_scale=call.attributes["output_scale"],
        epsilon=call.attributes["epsilon"],
        x_scale=call.attributes["x_scale"],
        residual_scale=call.attributes["residual_scale"],
    )
    rows = _rows(call.sizes_of("x"))
    if call.all_known:
        layernorm.launch(form, rows, call.sm)
    return PlannedKernel(
        layernorm.variant(form, call.sm),
        (layernorm.grid_blocks(form, rows), 1, 1),
        form.layout.block,
        form.layout.shared_bytes,
        (rows, *layernorm.constant_arguments(scalars)),
    )


def _plan_gelu(call: PluginCall) -> PlannedKernel:
    form = gelu.GeluForm(
        hidden=_hidden(call),
        x=_row_kind(call, "x"),
        bias="no_bias" not in call.signature.features,
        tanh=_switch(call, "tanh"),
    )
    scalars = gelu.GeluScalars(
        output_scale=call.attributes["output_scale"], x_scale=call.attributes["x_scale"]
    )
    rows = _rows(call.sizes_of("x"))
    if call.all_known:
        gelu.launch(form, rows, call.sm)
    return PlannedKernel(
        gelu.variant(form, call.sm),
        (gelu.grid_blocks(form, rows), 1, 1),
        gelu.BLOCK,
        gelu.TABLE_BYTES if form.table else 0,
        (rows, *gelu.constant_arguments(scalars)),
    )


def _row_kind(call: PluginCall, name: str) -> Literal["float16", "int8"]:
    return "int8" if call.kind_of(name) == "int8" else "float16"


def _rows(sizes: Sizes) -> Size:
    return reduce(mul, sizes[:-1], 1)


def _hidden(call: PluginCall) -> int:
    """H of `x`; vectors must have as many elements, and a residual the dimensions of `x`."""
    hidden = call.known_size("x", -1)
    for spec, sizes in zip(call.signature.inputs, call.sizes, strict=True):
        wanted = call.sizes_of("x") if spec.name == "residual" else (hidden,)
        if spec.name != "x" and not _may_be_equal(sizes, wanted):
            raise PluginError(
                f"{call.signature.name}: {spec.name!r} is {_text(sizes)}"
                f" beside 'x' {_text(call.sizes_of('x'))}",
                wanted=f"{_text(wanted)}; the kernel does not broadcast",
                todo="expand that tensor in the model, or leave this plugin out (--plugins)",
            )
    return hidden


def _may_be_equal(sizes: Sizes, wanted: Sizes) -> bool:
    """Whether no two sizes that are known at build time differ."""
    return len(sizes) == len(wanted) and all(
        a == b
        for a, b in zip(sizes, wanted, strict=True)
        if isinstance(a, int) and isinstance(b, int)
    )


def _switch(call: PluginCall, name: str) -> bool:
    value = call.attributes[name]
    if value not in (0, 1):
        raise PluginError(
            f"{call.signature.name}: attribute {name!r} is {value}",
            wanted="0 or 1",
            todo="fuse the model again (--plugins)",
        )
    return bool(value)


def _text(sizes: Sizes) -> str:
    return "[" + ", ".join(str(size) if isinstance(size, int) else "?" for size in sizes) + "]"


_PLANNERS: Final = {"attention": _plan_attention, "layernorm": _plan_layernorm, "gelu": _plan_gelu}
