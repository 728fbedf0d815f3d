"""What a run of a kernel on a CPU layer gives back, and the fault it stops with.

Shared by the emulator (the CUDA source under g++) and the PTX interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

FaultKind = Literal[
    "load",  # the source or PTX text cannot be run: unknown instruction, missing entry
    "launch",  # block, grid, shared size or arguments do not fit the entry
    "out_of_bounds",  # a global or shared access outside its buffer
    "misaligned",  # an address that is no multiple of the access size
    "read_only",  # a store to an input, or a load as read-only data from an output
    "undefined",  # what C++ or the ISA leaves open: integer overflow or division by zero
    "uninitialised",  # a value nobody wrote: register, shared byte, poisoned output byte
    "race",  # two threads touch a byte with no barrier between them, one of them writing
    "in_flight",  # a byte of a cp.async touched before it was waited for
    "divergence",  # a collective or barrier that not every thread it needs reaches
    "output",  # an output byte written twice or not at all
    "crash",  # the process that ran the kernel died
    "limit",  # more instructions than the layer allows: an endless loop
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class KernelFault(Exception):  # noqa: N818 (a fault of the kernel, not of the toolkit)
    """A kernel did what a GPU would not forgive, or what nobody can have meant.

    Attributes:
        kind: one of `FaultKind`.
    """

    def __init__(self, kind: FaultKind, message: str) -> None:
        """Take a sentence that names buffer, offset, block, thread and source line where known."""
        super().__init__(message)
        self.kind: FaultKind = kind


@dataclass(frozen=True)
class Traffic:
    """Memory requests of one kind, and how much work they made.

    Attributes:
        requests: shared memory: parts of a warp access that can be served in one wavefront at
            best (a warp of 32-bit words, 16 lanes of 64 bits, 8 lanes of 128 bits, one 8x8 matrix
            of ldmatrix). Global memory: warp instructions.
        units: wavefronts (shared) or 32-byte sectors (global) that the requests took.
    """

    requests: int
    units: int

    @property
    def per_request(self) -> float:
        """Units per request; 1.0 in shared memory means no bank conflict. 0 without requests."""
        return self.units / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class RunReport:
    """What one launch executed; a layer leaves empty what it cannot count.

    Attributes:
        layer: "emulator" or "interpreter".
        instructions: dynamic warp instructions by PTX opcode as it is written, "add.rn.f32".
        instructions_by_class: the same by class: mma, ldmatrix, float, int, move, control, memory,
            shuffle. PTX, not SASS: ptxas drops moves and may split or join what is left.
        instructions_by_line: the same by source line, "int8_attention.cu:120" (with -lineinfo).
        shared: traffic in shared memory by opcode ("ldmatrix", "ld.shared", "st.shared", ...).
        shared_by_line: the same by source line.
        global_: traffic to global memory by opcode ("ld.global", "st.global", "cp.async").
    """

    layer: str
    instructions: Mapping[str, int] = field(default_factory=dict)
    instructions_by_class: Mapping[str, int] = field(default_factory=dict)
    instructions_by_line: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, Traffic] = field(default_factory=dict)
    shared_by_line: Mapping[str, Traffic] = field(default_factory=dict)
    global_: Mapping[str, Traffic] = field(default_factory=dict)

    @property
    def total_instructions(self) -> int:
        """All dynamic warp instructions of the launch."""
        return sum(self.instructions.values())

    @property
    def shared_wavefronts_per_request(self) -> dict[str, float]:
        """Wavefronts per request by opcode; 1.0 is free of bank conflicts."""
        return {name: traffic.per_request for name, traffic in self.shared.items()}

    @property
    def global_sectors_per_request(self) -> dict[str, float]:
        """32-byte sectors per warp request by opcode."""
        return {name: traffic.per_request for name, traffic in self.global_.items()}
