"""Tensors that float16 may not hold, and what was done about them."""

from __future__ import annotations

from trt_int8.spec.base import Frozen


class Overflow(Frozen):
    """One tensor of a graph that came near the largest float16 number, 65504.

    Attributes:
        tensor: its name in the float32 graph.
        peak: largest |x| on the calibration data.
        float_nodes: its maker and its readers, which compute in float32.
        scaled_nodes: matmuls among them: they stay in half and multiply operands that were
            divided by a power of two, because TensorRT has no float32 matmul on SM75.
    """

    tensor: str
    peak: float
    float_nodes: tuple[str, ...] = ()
    scaled_nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence for people."""
        parts = []
        if self.float_nodes:
            parts.append(f"float32 in {', '.join(self.float_nodes)}")
        if self.scaled_nodes:
            parts.append(f"divided by a power of two in {', '.join(self.scaled_nodes)}")
        what = " and ".join(parts) or "nothing reads it in half"
        return f"{self.tensor} reaches {self.peak:.3g} (float16 ends at 65504): {what}"
