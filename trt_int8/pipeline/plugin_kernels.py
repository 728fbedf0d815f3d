"""The kernels that the plugin nodes of a graph need, compiled for the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import onnx

from trt_int8.errors import MissingPackageError, PluginError
from trt_int8.graph.plugin_nodes import plugin_calls
from trt_int8.model.onnx_shapes import infer_fixed_dims, infer_types
from trt_int8.plugins.calls import PluginCall
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.kernel import KERNEL_SMS, KernelVariant
from trt_int8.plugins.plans import plan_call
from trt_int8.plugins.signatures import Kind, PluginSignature
from trt_int8.spec.plugins import PluginVariant

_KINDS: dict[int, Kind] = {
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT32: "int32",
}
_ANY = 2


def compiled_variants(
    model: onnx.ModelProto, sms: Sequence[int | None]
) -> dict[str, tuple[PluginVariant, ...]]:
    """PTX hashes by plugin name, one per compilation that the nodes of a graph need.

    Args:
        model: a fused graph.
        sms: targets; each gets the newest kernels that it runs. Nothing is compiled for a card not
            known.

    Returns:
        Nothing for a plugin whose kernels cannot be compiled here: TensorRT compiles them again.
    """
    found: dict[str, dict[KernelVariant, PluginVariant]] = {}
    for signature, variant in _needed(model, sms):
        kept = found.setdefault(signature.name, {})
        if variant in kept:
            continue
        try:
            ptx = compile_ptx(variant).ptx
        except (MissingPackageError, PluginError):
            continue
        digest = hashlib.sha256(ptx.encode()).hexdigest()
        kept[variant] = PluginVariant(
            sm=variant.sm, defines=dict(variant.defines), ptx_sha256=digest
        )
    return {name: tuple(kept.values()) for name, kept in found.items()}


def _needed(
    model: onnx.ModelProto, sms: Sequence[int | None]
) -> list[tuple[PluginSignature, KernelVariant]]:
    kernels = {max(k for k in KERNEL_SMS if k <= sm) for sm in sms if sm is not None}
    if not kernels:
        return []
    dims, types, calls = infer_fixed_dims(model), infer_types(model), plugin_calls(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    needed = []
    for node in model.graph.node:
        signature = calls.get(node.name)
        if signature is None:
            continue
        read = node.input[: len(signature.inputs)]
        # Kernels are compiled for what is fixed; any number will do for what varies.
        sizes = tuple(
            tuple(size or _ANY for size in stored.get(name, dims.get(name, ()))) for name in read
        )
        kinds = tuple(_KINDS[types[name]] for name in (*read, *node.output))
        attributes = {a.name: a.i if a.type == a.INT else a.f for a in node.attribute}
        for sm in sorted(kernels):
            call = PluginCall(signature, kinds, sizes, attributes, sm)
            needed.append((signature, plan_call(call).variant))
    return needed
