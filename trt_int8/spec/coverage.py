"""What runs in which precision in a built engine."""

from __future__ import annotations

from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import Precision
from trt_int8.spec.targets import target_folder

Role = Literal["linear", "attention", "small", "other"]
Runs = Literal["int8", "float", "unmapped", "disputed"]


# The matmuls that a policy looks at.
COUNTED_ROLES: tuple[Role, ...] = ("linear", "attention")


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
        left_float: the recipe, or a rule with its reason, leaves it in float.
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
    left_float: bool = False


class ProfileCoverage(Frozen):
    """Coverage of one optimization profile of an engine: each has kernels of its own.

    Attributes:
        profile: its name, for example "seq 16-384".
        int8: Linear and attention matmuls proven to run INT8 in it.
        attentions_fused: attentions that are one kernel in it.
        attentions_int8: of those, with INT8 in both BMMs.
    """

    profile: str
    int8: int
    attentions_fused: int
    attentions_int8: int


class EngineCoverage(Frozen):
    """Coverage of one engine. What does not hold in every profile does not hold.

    Attributes:
        sm: compute capability times ten; None if built for the local card.
        precision: which of the twins.
        evidence: where the facts come from.
        tensorrt_version: what built it.
        nodes: one entry per MatMul and Gemm.
        attentions: attention blocks in the ONNX file.
        attentions_fused: of those, run as one kernel.
        attentions_int8: of those, as one kernel with INT8 in both BMMs.
        profiles: the same figures per optimization profile, if there are several.
    """

    sm: int | None
    precision: Precision
    evidence: str
    tensorrt_version: str
    nodes: tuple[NodeCoverage, ...]
    attentions: int
    attentions_fused: int
    attentions_int8: int
    profiles: tuple[ProfileCoverage, ...] = ()

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
        return tuple(node for node in self.nodes if node.role in COUNTED_ROLES)

    @property
    def expected(self) -> tuple[NodeCoverage, ...]:
        """The counted nodes that are to run INT8: all but those left in float on purpose."""
        return tuple(node for node in self.counted if not node.left_float)

    @property
    def fraction(self) -> float:
        """Share of the expected nodes that runs INT8; 1.0 if there is none."""
        expected = self.expected
        return sum(n.runs == "int8" for n in expected) / len(expected) if expected else 1.0
