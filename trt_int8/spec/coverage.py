"""What runs in which precision in a built engine."""

from __future__ import annotations

from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import Precision
from trt_int8.spec.targets import target_folder

Role = Literal["linear", "attention", "small", "other"]
Runs = Literal["int8", "float", "unmapped", "disputed"]


class NodeCoverage(Frozen):
    """One MatMul or Gemm of the ONNX file in one engine.

    Attributes:
        node: its ONNX name.
        role: `linear` (constant weight), `attention` (a BMM around a softmax), `small` (K or N
            below 16, not worth INT8) or `other`.
        wanted_int8: the ONNX file has Q/DQ on both operands.
        runs: what the engine does with it. `unmapped`: no kernel names it; `disputed`: two
            sources of evidence contradict each other. Only `int8` counts as INT8.
        operands: data types of its two operands in the engine.
        output: data type the kernel writes.
        constant_weight: the weight operand is a constant of the engine; None for BMMs.
        kernel: name of the engine layer.
        fused_attention: it is part of one fused attention kernel.
        reason: why it is not INT8; empty if it is.
    """

    node: str
    role: Role
    wanted_int8: bool
    runs: Runs
    operands: tuple[str, ...]
    output: str
    constant_weight: bool | None
    kernel: str
    fused_attention: bool
    reason: str


class EngineCoverage(Frozen):
    """Coverage of one engine.

    Attributes:
        sm: compute capability times ten; None if built for the local card.
        precision: which of the twins.
        evidence: where the facts come from.
        tensorrt_version: what built it.
        nodes: one entry per MatMul and Gemm.
        attentions: attention blocks in the ONNX file.
        attentions_fused: of those, run as one kernel.
        attentions_int8: of those, as one kernel with INT8 in both BMMs.
    """

    sm: int | None
    precision: Precision
    evidence: str
    tensorrt_version: str
    nodes: tuple[NodeCoverage, ...]
    attentions: int
    attentions_fused: int
    attentions_int8: int

    @property
    def label(self) -> str:
        """Name of the engine in reports: "sm75 int8"."""
        return f"{target_folder(self.sm)} {self.precision}"

    @property
    def int8_count(self) -> int:
        """MatMuls proven to run INT8."""
        return sum(node.runs == "int8" for node in self.counted)

    @property
    def counted(self) -> tuple[NodeCoverage, ...]:
        """The nodes a policy looks at: all Linear and attention matmuls."""
        return tuple(node for node in self.nodes if node.role in ("linear", "attention"))

    @property
    def fraction(self) -> float:
        """Share of the counted nodes that runs INT8; 1.0 if there is none."""
        return self.int8_count / len(self.counted) if self.counted else 1.0
