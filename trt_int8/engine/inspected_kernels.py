"""One kernel of an engine, and the matmuls it computes, from a plan or from a listing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trt_int8.engine.coverage import has_int8_qkv, layer_is_int8, operator_is_int8
from trt_int8.engine.evidence import UNKNOWN_PROFILE, EngineLayer
from trt_int8.engine.plan_graph import PlanKernel, merged_matmuls
from trt_int8.engine.plan_text import PlanOperator, PlanText
from trt_int8.spec.coverage import Role
from trt_int8.spec.inspection import InspectedMatMul, Kernel
from trt_int8.spec.rules import is_too_small

_NUMBERED = re.compile(r"_myl\d+_\d+$")
_BMMS = ("Q·Kᵀ", "P·V")
_NOT_SAID = "the engine does not say what this fused kernel multiplies"
# Sizes and masks are read beside what is multiplied.
_ASIDE = frozenset({"int64", "int32", "bool"})


def plan_kernel(found: PlanKernel, text: PlanText) -> Kernel:
    """The kernel of a plan; INT8 only where the plan proves it."""
    layer = found.layer
    if layer.kind == "attention":
        types = tuple(t.dtype for t in layer.inputs)
        int8 = _attention_is_int8(layer, text.operators)
        types = tuple(t for t in types if t not in _ASIDE)
    elif layer.kind == "gemm":
        types = tuple(t.dtype for t in found.multiplied)
        int8 = types == ("int8", "int8")
    else:
        types, int8 = _read_types(layer), False
    return _kernel(layer, types, int8=int8)


def _attention_is_int8(layer: EngineLayer, operators: Sequence[PlanOperator]) -> bool:
    own = [o for o in operators if o.kind == "attention" and o.onnx_nodes == layer.onnx_nodes]
    written = {t.dtype for t in layer.outputs}
    return (
        bool(own)
        and all(operator_is_int8(o) for o in own)
        and has_int8_qkv([t.dtype for t in layer.inputs])
        and written == {"int8"}
    )


def listed_kernel(layer: EngineLayer) -> Kernel:
    """The kernel of a listing; INT8 only where its data types prove it."""
    if layer.kind == "other":
        return _kernel(layer, _read_types(layer), int8=False)
    int8 = layer_is_int8(layer)
    tensors = layer.inputs if layer.kind == "attention" else layer.operands
    types = tuple(t.dtype for t in tensors if t.dtype not in _ASIDE)
    if layer.kind == "gemm" and layer.casts_first:
        types = tuple("unknown" if t == "int8" else t for t in types)
    return _kernel(layer, types, int8=int8)


def _kernel(layer: EngineLayer, types: tuple[str, ...], *, int8: bool) -> Kernel:
    name = _NUMBERED.sub("", layer.name)
    if layer.kind == "attention" and int8:
        types = ("int8",) * 3  # Q, K and V; a position bias beside them is added, not multiplied
    return Kernel(
        name=layer.name,
        # A plain GEMM is named after its ONNX nodes; Myelin's names say what a kernel does.
        family="GEMM" if layer.kind == "gemm" and not name.startswith("__myl") else name,
        kind=layer.kind,
        operands=types,
        outputs=tuple(dict.fromkeys(t.dtype for t in layer.outputs)),
        nodes=layer.onnx_nodes,
        int8=int8 and layer.profile != UNKNOWN_PROFILE,
        profile=layer.profile,
    )


def _read_types(layer: EngineLayer) -> tuple[str, ...]:
    """What a kernel reads, each type once; sizes only if it reads nothing else."""
    types = tuple(dict.fromkeys(t.dtype for t in layer.inputs + layer.constants))
    return tuple(t for t in types if t not in _ASIDE) or types


def plan_matmuls(found: PlanKernel, kernel: Kernel) -> Iterable[InspectedMatMul]:
    """The matmuls of a plan's kernel, judged by its operands alone."""
    if kernel.kind == "attention":
        return _attention_matmuls(kernel)
    if kernel.kind == "other":
        return ()
    dims = found.weight_dims
    flat = dims is not None and len(dims) >= 2 and all(size == 1 for size in dims[:-2])
    # A second operand of fixed size [K, N] that is no constant is a weight made at run time.
    constant = True if found.constant_weight else (False if flat else None)
    role: Role | None = None
    if constant is not None and dims is not None and len(dims) >= 2:
        role = "small" if is_too_small(dims[-2], dims[-1]) else "linear"
    return _gemm_matmuls(kernel, found.matmuls, role, constant_weight=constant)


def listed_matmuls(layer: EngineLayer, kernel: Kernel) -> Iterable[InspectedMatMul]:
    """The matmuls of a listed kernel, judged by its operands alone."""
    if kernel.kind == "attention":
        return _attention_matmuls(kernel)
    if kernel.kind == "other":
        return ()
    stored = {tensor.name for tensor in layer.constants}
    constant = True if any(t.name in stored for t in layer.operands) else None
    names = merged_matmuls(_NUMBERED.sub("", layer.name), layer.onnx_nodes)
    return _gemm_matmuls(kernel, names, "linear" if constant else None, constant_weight=constant)


def _gemm_matmuls(
    kernel: Kernel, names: tuple[str, ...], role: Role | None, *, constant_weight: bool | None
) -> list[InspectedMatMul]:
    reason = "" if kernel.int8 else _why_not(kernel)
    return [
        InspectedMatMul(
            node=name,
            role=role,
            runs="int8" if kernel.int8 else "float" if kernel.operands else "unmapped",
            operands=kernel.operands,
            output=kernel.outputs[0] if kernel.outputs else "unknown",
            constant_weight=constant_weight,
            kernel=kernel.name,
            fused_attention=False,
            reason=reason,
        )
        for name in names or kernel.nodes[:1] or (kernel.name,)
    ]


def _attention_matmuls(kernel: Kernel) -> list[InspectedMatMul]:
    """The two matmuls inside a fused attention, by name if the names tell them."""
    named = [n for n in kernel.nodes if "matmul" in re.split(r"[/.]", n)[-1].lower()]
    first = kernel.nodes[0] if kernel.nodes else kernel.name
    names = named if len(named) == 2 else [f"{first} ({part})" for part in _BMMS]
    return [
        InspectedMatMul(
            node=name,
            role="attention",
            runs="int8" if kernel.int8 else "float",
            operands=kernel.operands,
            output=kernel.outputs[0] if kernel.outputs else "unknown",
            constant_weight=None,
            kernel=kernel.name,
            fused_attention=True,
            reason="" if kernel.int8 else _why_not(kernel),
        )
        for name in names
    ]


def _why_not(kernel: Kernel) -> str:
    if not kernel.operands:
        return _NOT_SAID
    text = " x ".join(kernel.operands)
    if kernel.kind == "attention":
        return f"the fused attention reads {text}" + (
            ", but its code has no INT8 instructions in both matmuls"
            if has_int8_qkv(kernel.operands)
            else ""
        )
    return f"the kernel multiplies {text}"
