"""`i_softmax`, `i_gelu`, `i_layernorm`: how each integer-only kernel is compiled and launched.

The contracts are in `cuda/integer_ops.cu`, the constants in `integer_constants.py`. These kernels
are no plugins of TensorRT: they take 32-bit accumulators, which TensorRT does not hand out. They
are for pipelines of their own, and the measure of what integers alone can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import PluginError
from trt_int8.plugins.integer_constants import (
    LARGEST_ROW,
    GeluConstants,
    LayerNormConstants,
    SoftmaxConstants,
    gelu_constants,
    layernorm_constants,
    softmax_constants,
)
from trt_int8.plugins.kernel import (
    KernelLaunch,
    KernelVariant,
    sorted_defines,
)

SOURCE: Final = "integer_ops.cu"
BLOCK: Final = 128
WARPS: Final = BLOCK // 32
# The sum of so many 15-bit codes fits 31 bits.
LONGEST_SOFTMAX: Final = 65536


@dataclass(frozen=True)
class IntegerSoftmax:
    """Softmax of int32 scores over the last axis.

    Attributes:
        scale: real value of one step of the scores.
        signed: int8 codes of 1/127, for Tensor Core products of two signed operands, instead of
            I-BERT's uint8 codes of 1/256.
    """

    scale: float
    signed: bool = False

    @property
    def constants(self) -> SoftmaxConstants:
        """Integer constants; raises as `softmax_constants`."""
        return softmax_constants(self.scale)

    @property
    def output_scale(self) -> float:
        """Real value of one step of the output."""
        return 1 / 127 if self.signed else 1 / 256

    def launch(self, rows: int, length: int, sm: int) -> KernelLaunch:
        """The launch for scores [rows, length].

        Raises:
            PluginError: a size or `sm` that the kernel does not take.
        """
        _check_rows("i_softmax", rows, length, LONGEST_SOFTMAX)
        return _row_launch("i_softmax", rows, length, sm, SIGNED=self.signed)

    def arguments(self, rows: int, length: int) -> tuple[int, ...]:
        """Integer arguments in the kernel's order: after the scores, before the output."""
        made = self.constants
        return (
            *(rows, length, made.input_shift, made.ln2, made.reciprocal),
            *(made.linear, made.constant, made.to_codes.multiplier, made.to_codes.shift),
        )


@dataclass(frozen=True)
class IntegerGelu:
    """GELU of int32 accumulators, to int8.

    Attributes:
        scale: real value of one step of the input.
        output_scale: real value of one step of the output.
    """

    scale: float
    output_scale: float

    @property
    def constants(self) -> GeluConstants:
        """Integer constants; raises as `gelu_constants`."""
        return gelu_constants(self.scale, self.output_scale)

    def launch(self, count: int, sm: int) -> KernelLaunch:
        """The launch for `count` elements.

        Raises:
            PluginError: a count or `sm` that the kernel does not take.
        """
        _check_rows("i_gelu", 1, count, 2**31 - 1)
        blocks = (count + 4 * BLOCK - 1) // (4 * BLOCK)
        return KernelLaunch(_variant("i_gelu", sm, WIDTH=4), (blocks, 1, 1), BLOCK)

    def arguments(self, count: int) -> tuple[int, ...]:
        """Integer arguments in the kernel's order: after the input, before the output."""
        made = self.constants
        low = made.constant & 0xFFFFFFFF
        return (
            *(count, made.clamp, made.bound, low - 2**32 * (low >> 31), made.constant >> 32),
            *(made.shift, made.one, made.to_codes.multiplier, made.to_codes.shift),
        )


@dataclass(frozen=True)
class IntegerLayerNorm:
    """LayerNorm of int32 sums over the last axis, to int8; no epsilon, no input scale.

    Attributes:
        gamma, beta: float weights, C of each.
        output_scale: real value of one step of the output.
    """

    gamma: tuple[float, ...]
    beta: tuple[float, ...]
    output_scale: float

    @property
    def constants(self) -> LayerNormConstants:
        """Integer constants; raises as `layernorm_constants`."""
        return layernorm_constants(self.gamma, self.beta, self.output_scale)

    def launch(self, rows: int, sm: int) -> KernelLaunch:
        """The launch for x [rows, C].

        Raises:
            PluginError: a size or `sm` that the kernel does not take.
        """
        _check_rows("i_layernorm", rows, len(self.gamma), LARGEST_ROW)
        return _row_launch("i_layernorm", rows, len(self.gamma), sm)

    def channel_inputs(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The inputs after x: multipliers int32 [C], biases int64 [C]."""
        made = self.constants
        return np.array(made.multipliers, dtype=np.int32), np.array(made.biases, dtype=np.int64)

    def arguments(self, rows: int) -> tuple[int, ...]:
        """Integer arguments in the kernel's order: after the inputs, before the output."""
        return (rows, len(self.gamma), self.constants.shift)


def _row_launch(entry: str, rows: int, length: int, sm: int, **defines: int) -> KernelLaunch:
    # Rows begin at a multiple of 16 bytes only where four elements divide them.
    width = 1 if length % 4 else 4
    variant = _variant(entry, sm, WIDTH=width, **defines)
    return KernelLaunch(variant, ((rows + WARPS - 1) // WARPS, 1, 1), BLOCK)


def _variant(entry: str, sm: int, **defines: int) -> KernelVariant:
    return KernelVariant(SOURCE, entry, sm, sorted_defines(defines))


def _check_rows(kernel: str, rows: int, length: int, longest: int) -> None:
    if not (rows >= 1 and 1 <= length <= longest and rows * length < 2**31):
        raise PluginError(
            f"{kernel} got {rows} rows of {length} elements",
            wanted=f"at least one row of 1 to {longest}, fewer than 2^31 elements in all",
            todo="split the batch, or use the kernel with float arithmetic",
        )
