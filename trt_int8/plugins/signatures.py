"""The plugins that TensorRT knows: name, inputs, attributes and outputs of every form.

A quick plugin of TensorRT has a fixed number of inputs and outputs, so each combination of optional
ones is a plugin of its own, named after its features: `int8_attention`, `int8_attention_lengths`,
`skip_layernorm_quant_bias_sum`. All come from one table per family. Attributes are scalars and are
the same for every form of a family: TensorRT 10.9 and 10.13 read arrays and text wrongly.

In an ONNX file a plugin is a node with the plugin's name as its operator, `NAMESPACE` as its
domain, every attribute of the signature, and `plugin_namespace = NAMESPACE`: with that attribute
TensorRT's parser takes the plugin even where the file defines a local function of the same name
(onnx-tensorrt, `ModelImporter::parseNode`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from trt_int8.errors import PluginError

NAMESPACE: Final = "trt_int8"
# The version that quick plugins of TensorRT register with.
PLUGIN_VERSION: Final = "1"

Family = Literal["attention", "layernorm", "gelu"]
Kind = Literal["int8", "float16", "float32", "int32"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a plugin.

    Attributes:
        name: as in the kernel's contract.
        kinds: element types it may have; the first is the usual one.
        rank: number of dimensions; None where any number from 1 on is good.
    """

    name: str
    kinds: tuple[Kind, ...]
    rank: int | None


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute of a plugin; every one must be given.

    Attributes:
        name: as in the ONNX node and in TensorRT.
        kind: its Python type.
    """

    name: str
    kind: type[int] | type[float]


@dataclass(frozen=True)
class PluginSignature:
    """What TensorRT is told of one plugin.

    Attributes:
        family: whose kernel it runs.
        name: operator in ONNX, plugin name in TensorRT.
        features: what this form has, in the order of the name's parts.
        inputs: in the order of the kernel's parameters.
        attributes: scalars, in order.
        outputs: in the order of the kernel's parameters. A second kind stands for an output whose
            type an attribute chooses (`half_output` of attention).
    """

    family: Family
    name: str
    features: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    attributes: tuple[AttributeSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def plugin_id(self) -> str:
        """Name that `tensorrt.plugin.register` takes, such as `trt_int8::int8_attention`."""
        return f"{NAMESPACE}::{self.name}"


def signatures() -> tuple[PluginSignature, ...]:
    """Every plugin, in a fixed order."""
    return (*_attention(), *_layernorm(), *_gelu())


def signature_of(family: Family, features: Collection[str] = ()) -> PluginSignature:
    """The plugin of a family with exactly these features.

    Attention: at most one of `packed`, `ragged` and at most one of `lengths`, `mask`.
    LayerNorm: `bias`, `no_residual`, `rms`, `half`, `sum`. GELU: `no_bias`.

    Raises:
        PluginError: there is no such form.
    """
    of_family = [signature for signature in signatures() if signature.family == family]
    for signature in of_family:
        if set(signature.features) == set(features):
            return signature
    raise PluginError(
        f"no plugin of the family {family!r} has the features {sorted(features)}",
        wanted="one of " + ", ".join(signature.name for signature in of_family),
        todo="leave that part of the graph to TensorRT (--plugins off)",
    )


def signature_named(name: str) -> PluginSignature:
    """The plugin with this name, with or without its namespace.

    Raises:
        PluginError: there is none.
    """
    short = name.removeprefix(f"{NAMESPACE}::")
    for signature in signatures():
        if signature.name == short:
            return signature
    raise PluginError(
        f"no plugin is named {name!r}",
        wanted="one of this version's plugins",
        todo="fuse the model again with this version",
    )


def _floats(*names: str) -> tuple[AttributeSpec, ...]:
    return tuple(AttributeSpec(name, float) for name in names)


_ATTENTION_ATTRIBUTES: Final = (
    *_floats("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale"),
    AttributeSpec("causal", int),
    AttributeSpec("half_output", int),
)
_LAYERNORM_ATTRIBUTES: Final = _floats("x_scale", "residual_scale", "output_scale", "epsilon")
_GELU_ATTRIBUTES: Final = (*_floats("x_scale", "output_scale"), AttributeSpec("tanh", int))

# [B, S, N, D] apart, [B, S, 3, N, D] packed, or [T, N, D] with all tokens of a batch in a row.
_LAYOUTS: Final = {
    "": tuple(TensorSpec(name, ("int8",), 4) for name in ("q", "k", "v")),
    "packed": (TensorSpec("qkv", ("int8",), 5),),
    "ragged": (
        *(TensorSpec(name, ("int8",), 3) for name in ("q", "k", "v")),
        TensorSpec("cu_seqlens", ("int32",), 1),
    ),
}
_MASKS: Final = {
    "": (),
    "lengths": (TensorSpec("key_lengths", ("int32",), 1),),
    "mask": (TensorSpec("mask", ("float32",), 4),),
}
_HIDDEN_KINDS: Final[tuple[Kind, ...]] = ("float16", "int8")


def _attention() -> Iterator[PluginSignature]:
    for layout, mask in product(_LAYOUTS, _MASKS):
        if layout == "ragged" and mask:
            continue  # cu_seqlens says which keys there are
        features = tuple(part for part in (layout, mask) if part)
        yield PluginSignature(
            "attention",
            "_".join(("int8_attention", *features)),
            features,
            (*_LAYOUTS[layout], *_MASKS[mask]),
            _ATTENTION_ATTRIBUTES,
            (TensorSpec("output", ("int8", "float16"), 3 if layout == "ragged" else 4),),
        )


def _layernorm() -> Iterator[PluginSignature]:
    switches = ("bias", "no_residual", "rms", "half", "sum")
    for chosen in product((False, True), repeat=len(switches)):
        on = dict(zip(switches, chosen, strict=True))
        features = tuple(name for name in switches if on[name])
        inputs = [TensorSpec("x", _HIDDEN_KINDS, None)]
        inputs += [TensorSpec("bias", ("float16",), 1)] * on["bias"]
        inputs += [TensorSpec("residual", _HIDDEN_KINDS, None)] * (not on["no_residual"])
        inputs += [TensorSpec("gamma", ("float16",), 1)]
        inputs += [TensorSpec("beta", ("float16",), 1)] * (not on["rms"])
        outputs = [TensorSpec("y", ("int8",), None)]
        outputs += [TensorSpec("y_half", ("float16",), None)] * on["half"]
        outputs += [TensorSpec("sum", ("float16",), None)] * on["sum"]
        name = "_".join(("skip_layernorm_quant", *features))
        yield PluginSignature(
            "layernorm", name, features, tuple(inputs), _LAYERNORM_ATTRIBUTES, tuple(outputs)
        )


def _gelu() -> Iterator[PluginSignature]:
    for features in ((), ("no_bias",)):
        inputs = [TensorSpec("x", _HIDDEN_KINDS, None)]
        inputs += [TensorSpec("bias", ("float16",), 1)] * (not features)
        yield PluginSignature(
            "gelu",
            "_".join(("bias_gelu_quant", *features)),
            features,
            tuple(inputs),
            _GELU_ATTRIBUTES,
            (TensorSpec("y", ("int8",), None),),
        )
