"""What `trt-int8 inspect` finds in a bundle or an engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import Precision
from trt_int8.spec.coverage import Role, Runs
from trt_int8.spec.targets import target_folder

INSPECTION_FORMAT: Final = "trt_int8-inspection-1"

KernelKind = Literal["gemm", "attention", "other"]
Source = Literal["bundle", "engine", "listing"]

# Bytes of one value, of the types that weights come in; others (int64 shapes, bool) are no weights.
WEIGHT_SIZES: Final = {"int8": 1, "fp8": 1, "half": 2, "bfloat16": 2, "float": 4}


class WeightBytes(Frozen):
    """Constants of one data type: their number of values and their bytes."""

    dtype: str
    values: int
    size_bytes: int


class Kernel(Frozen):
    """One kernel of an engine, in the order of its listing.

    Attributes:
        name: as in the engine.
        family: the name without what tells layers apart: equal work has an equal family.
        kind: `gemm` (also fused with what follows), `attention` (one fused kernel) or `other`.
        operands: data types of what is multiplied (GEMM, attention), else of what is read.
        outputs: data types of what is written.
        nodes: ONNX nodes it implements.
        int8: it is proven to multiply INT8 by INT8; for `other` always False.
        profile: optimization profile that it runs in; -1 if that is not known.
    """

    name: str
    family: str
    kind: KernelKind
    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    int8: bool
    profile: int = 0

    @property
    def dtype(self) -> str:
        """The one data type that stands for it: of what it multiplies, else of what it writes."""
        if self.int8:
            return "int8"
        types = self.outputs if self.kind == "other" else self.operands
        floats = [t for t in types if t in ("float", "bfloat16", "half", "fp8")]
        if self.kind != "other":
            # INT8 without proof is unknown, whatever the types say.
            return floats[0] if floats else "unknown"
        return "int8" if "int8" in types else next(iter(floats or types), "unknown")


class KernelGroup(Frozen):
    """Kernels of one profile that do the same work with the same data types.

    Attributes:
        count: how many there are.
        nodes: the ONNX nodes of all of them.
    """

    family: str
    kind: KernelKind
    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    int8: bool
    profile: int
    count: int
    nodes: tuple[str, ...]


class InspectedMatMul(Frozen):
    """One matmul in one engine.

    Attributes:
        node: its ONNX name.
        role: see `trt_int8.spec.coverage.NodeCoverage`; None where the engine alone cannot tell.
        runs: what the engine does with it; only `int8` counts as INT8.
        operands: data types of its two operands.
        output: data type the kernel writes.
        constant_weight: the weight is a constant of the engine; False: it is computed at every
            inference; None for the matmuls of an attention, and where it is not known.
        kernel: name of the kernel.
        fused_attention: it is part of one fused attention kernel.
        reason: why it is not INT8; empty if it is.
        left_float: the recipe, or a rule with its reason, leaves it in float.
    """

    node: str
    role: Role | None
    runs: Runs
    operands: tuple[str, ...]
    output: str
    constant_weight: bool | None
    kernel: str
    fused_attention: bool
    reason: str
    left_float: bool = False


class EngineInspection(Frozen):
    """One engine.

    Attributes:
        sm: compute capability times ten that it was built for; None for the card of a machine, or
            not known.
        precision: which of the twins; None for an engine outside a bundle.
        file: path inside the bundle, or file name.
        size_bytes: of the file; None for a listing of layers.
        tensorrt_version: that built it, from the plan's header where that can be read.
        plan_sms: targets named in the plan's header; None where the plan cannot be read.
        evidence: where the facts come from.
        matmuls: one entry per MatMul and Gemm.
        attentions: attentions of the ONNX file; None without one: those that were not fused
            cannot be told from other matmuls.
        attentions_fused: attentions that run as one kernel.
        attentions_int8: of those, with INT8 in both matmuls.
        kernels: all kernels; None where only those of the matmuls are known.
        weights: constants in the plan by data type, of one profile (profiles share them); None
            where the plan cannot be read.
    """

    sm: int | None
    precision: Precision | None
    file: str
    size_bytes: int | None
    tensorrt_version: str
    plan_sms: tuple[int, ...] | None
    evidence: str
    matmuls: tuple[InspectedMatMul, ...]
    attentions: int | None
    attentions_fused: int
    attentions_int8: int
    kernels: tuple[Kernel, ...] | None
    weights: tuple[WeightBytes, ...] | None

    @property
    def name(self) -> str:
        """As in `--engine`: "sm75/int8"; the file name outside a bundle."""
        return self.file if self.precision is None else f"{target_folder(self.sm)}/{self.precision}"

    @property
    def counted(self) -> tuple[InspectedMatMul, ...]:
        """What a policy looks at: Linear and attention matmuls, and those of unknown role."""
        return tuple(m for m in self.matmuls if m.role in ("linear", "attention", None))

    @property
    def int8_count(self) -> int:
        """Counted matmuls that are proven to run INT8."""
        return sum(m.runs == "int8" for m in self.counted)

    @property
    def fallbacks(self) -> tuple[InspectedMatMul, ...]:
        """Counted matmuls that do not run INT8; each has a reason."""
        return tuple(m for m in self.counted if m.runs != "int8")

    @property
    def requantized(self) -> tuple[InspectedMatMul, ...]:
        """Matmuls whose weight is computed, most often quantized, at every inference.

        None in an FP16 twin: its kernels may lay a weight out anew, but there is no INT8 to lose.
        """
        if self.precision == "fp16":
            return ()
        return tuple(m for m in self.matmuls if m.constant_weight is False)

    @property
    def overflow_hazards(self) -> tuple[InspectedMatMul, ...]:
        """INT8 matmuls whose kernel writes float16: the raw accumulator may exceed 65504."""
        return tuple(
            m
            for m in self.matmuls
            if m.runs == "int8" and m.output == "half" and not m.fused_attention
        )

    @property
    def groups(self) -> tuple[KernelGroup, ...]:
        """Equal kernels taken together, matrix kernels first, then by number."""
        return group_kernels(self.kernels or ())


class OnnxInspection(Frozen):
    """One of the bundle's graphs: its size on disk and its constants by data type."""

    precision: Precision
    file: str
    size_bytes: int
    weights: tuple[WeightBytes, ...]


class Inspection(Frozen):
    """Everything that was found at one path.

    Attributes:
        format: version of this form.
        path: what was inspected.
        source: a bundle, a bare engine, or a listing of layers (engine inspector JSON).
        model: name of the model; None outside a bundle.
        onnx: the bundle's graphs.
        engines: in the order of the manifest.
        notes: what could not be read, and why.
    """

    format: Literal["trt_int8-inspection-1"] = INSPECTION_FORMAT
    path: str
    source: Source
    model: str | None
    onnx: tuple[OnnxInspection, ...]
    engines: tuple[EngineInspection, ...]
    notes: tuple[str, ...]

    def twin_of(self, engine: EngineInspection) -> EngineInspection | None:
        """The FP16 engine of the same target; None for an FP16 engine and outside a bundle."""
        if engine.precision != "int8":
            return None
        found = (e for e in self.engines if e.sm == engine.sm and e.precision == "fp16")
        return next(found, None)


def bytes_per_weight(weights: Iterable[WeightBytes]) -> float | None:
    """Bytes per value over all constants of a weight's data type; None if there is none."""
    listed = [w for w in weights if w.dtype in WEIGHT_SIZES]
    values = sum(w.values for w in listed)
    return sum(w.size_bytes for w in listed) / values if values else None


def group_kernels(kernels: Iterable[Kernel]) -> tuple[KernelGroup, ...]:
    """Take together kernels of one family with the same data types."""
    found: dict[tuple[object, ...], list[Kernel]] = {}
    for kernel in kernels:
        types = (kernel.operands, kernel.outputs, kernel.int8)
        key = (kernel.profile, kernel.family, kernel.kind, *types)
        found.setdefault(key, []).append(kernel)
    groups = [
        KernelGroup(
            family=same[0].family,
            kind=same[0].kind,
            operands=same[0].operands,
            outputs=same[0].outputs,
            int8=same[0].int8,
            profile=same[0].profile,
            count=len(same),
            nodes=tuple(dict.fromkeys(node for kernel in same for node in kernel.nodes)),
        )
        for same in found.values()
    ]
    order = ("gemm", "attention", "other")
    return tuple(sorted(groups, key=lambda g: (g.profile, order.index(g.kind), -g.count, g.family)))
