"""SkipLayerNormQuant: which forms of the kernel there are, how each is compiled and launched.

y = quantize(norm(x + bias + residual)), over the last axis: LayerNorm (Ba et al. 2016, eq. 3) or
RMSNorm (Zhang and Sennrich 2019, eq. 4). The contract is in `cuda/skip_layernorm_quant.cu`, its
bits in `layernorm_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from trt_int8.errors import PluginError
from trt_int8.plugins.kernel import (
    KernelLaunch,
    KernelVariant,
    float_bits,
    sorted_defines,
)
from trt_int8.plugins.scales import check_scale, inverse_scale

SOURCE: Final = "skip_layernorm_quant.cu"
ENTRY: Final = "skip_layernorm_quant"

MAX_HIDDEN: Final = 4096
# Rows that share a block, one or several per warp, use four warps: small enough that short batches
# reach every multiprocessor, large enough to fill an sm_75 with 8 of its at most 16 blocks.
SHARED_BLOCK_THREADS: Final = 128
WARP: Final = 32
# A row stays in registers: 32 float values a thread leave room for every warp of an sm_75.
MAX_VALUES_PER_THREAD: Final = 32
# More accesses of a thread under way at once would take the registers of its neighbours.
MAX_ACCESSES_PER_THREAD: Final = 8
# Squares of differences must stay finite, and epsilon a normal number.
MIN_EPSILON: Final = 1e-30
MAX_EPSILON: Final = 1.0

Kind = Literal["float16", "int8"]


@dataclass(frozen=True)
class RowLayout:
    """How the threads of a row share its elements.

    Thread t of a row holds, for v = 0 .. vectors-1, the elements
    (v * lanes + t) * width .. + width - 1, as far as the row has them.

    Attributes:
        width: neighbouring elements that one access moves; divides H.
        lanes: threads of a row; up to 32 of one warp, else whole warps of one block.
        vectors: accesses of a thread to a row.
    """

    width: int
    lanes: int
    vectors: int

    @property
    def rows_per_block(self) -> int:
        """Rows of a block: one where a row takes a block."""
        return max(1, SHARED_BLOCK_THREADS // self.lanes) if self.lanes <= WARP else 1

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.rows_per_block * self.lanes

    @property
    def shared_bytes(self) -> int:
        """Sums that warps of a row exchange: three, one float per warp, in fours; else nothing."""
        return 3 * 16 * -(-self.lanes // (4 * WARP)) if self.lanes > WARP else 0


@dataclass(frozen=True)
class LayerNormForm:
    """The compile-time choices of one kernel.

    Attributes:
        hidden: H, the length of a row.
        x: element type of `x`.
        residual: element type of `residual`; None where there is none.
        bias: whether there is a half bias [H], added to `x`.
        rms: RMSNorm, which has no mean and no beta.
        half: whether the normalised row is also written as half.
        sum: whether x + bias + residual is also written as half (pre-norm models go on with it).
    """

    hidden: int
    x: Kind = "float16"
    residual: Kind | None = "float16"
    bias: bool = False
    rms: bool = False
    half: bool = False
    sum: bool = False

    def __post_init__(self) -> None:
        """Refuse a row length that the kernel has no registers for."""
        if not 1 <= self.hidden <= MAX_HIDDEN:
            raise PluginError(
                f"SkipLayerNormQuant got rows of {self.hidden} elements",
                wanted=f"1 to {MAX_HIDDEN}",
                todo="leave this LayerNorm to TensorRT (--plugins without layernorm)",
            )

    @property
    def layout(self) -> RowLayout:
        """How a row is shared: inside a warp where it fits, with the widest access that divides H.

        Then, inside a warp, the fewest idle lanes and the most lanes; else the fewest instructions.
        """
        return min(_layouts(self.hidden), key=lambda layout: _rank(self.hidden, layout))


@dataclass(frozen=True)
class LayerNormScalars:
    """What is known when a node is built, and given to the kernel as arguments.

    Attributes:
        output_scale: real value of one step of the int8 output.
        epsilon: added to the variance, or to the mean square.
        x_scale: real value of one step of an int8 `x`; unused for half.
        residual_scale: the same of an int8 `residual`.
    """

    output_scale: float
    epsilon: float
    x_scale: float = 1.0
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse scales and an epsilon outside the range that the error bounds hold for."""
        for name in ("output_scale", "x_scale", "residual_scale"):
            check_scale("SkipLayerNormQuant", name, getattr(self, name))
        if not MIN_EPSILON <= self.epsilon <= MAX_EPSILON:
            raise PluginError(
                f"SkipLayerNormQuant got epsilon = {self.epsilon}",
                wanted=f"{MIN_EPSILON} to {MAX_EPSILON}",
                todo="correct the model's epsilon, or leave this LayerNorm to TensorRT",
            )


def variant(form: LayerNormForm, sm: int) -> KernelVariant:
    """The compilation of a form for one of `KERNEL_SMS`, or for a later SM to look at its SASS."""
    layout = form.layout
    kinds = {None: 0, "float16": 1, "int8": 2}
    defines = sorted_defines(
        {
            "HIDDEN": form.hidden,
            "WIDTH": layout.width,
            "LANES": layout.lanes,
            "VECTORS": layout.vectors,
            "X_KIND": kinds[form.x],
            "RESIDUAL_KIND": kinds[form.residual],
            "HAS_BIAS": form.bias,
            "RMS": form.rms,
            "HALF_OUTPUT": form.half,
            "SUM_OUTPUT": form.sum,
        }
    )
    return KernelVariant(SOURCE, ENTRY, sm, defines)


def grid_blocks(form: LayerNormForm, rows: Any) -> Any:
    """Blocks along x for `rows` rows: an int, or TensorRT's symbolic integer."""
    per_block = form.layout.rows_per_block
    return (rows + (per_block - 1)) // per_block


def launch(form: LayerNormForm, rows: int, sm: int) -> KernelLaunch:
    """The launch for `rows` rows, at least one.

    Raises:
        PluginError: there is no row, or `sm` is too old.
    """
    if rows < 1:
        raise PluginError(
            f"SkipLayerNormQuant got {rows} rows",
            wanted="at least 1",
            todo="do not run a batch without tokens",
        )
    layout = form.layout
    grid = (int(grid_blocks(form, rows)), 1, 1)
    return KernelLaunch(variant(form, sm), grid, layout.block, layout.shared_bytes)


def constant_arguments(scalars: LayerNormScalars) -> tuple[int, ...]:
    """The integer arguments after the number of rows: float bits, in the kernel's order."""
    return (
        float_bits(scalars.x_scale),
        float_bits(scalars.residual_scale),
        float_bits(inverse_scale(scalars.output_scale)),
        float_bits(scalars.epsilon),
    )


def scalar_arguments(scalars: LayerNormScalars, rows: int) -> tuple[int, ...]:
    """All integer arguments in the kernel's order: rows, then `constant_arguments`.

    They come after the inputs x, [bias], [residual], gamma, [beta] and before the outputs y,
    [y_half], [sum].
    """
    return (rows, *constant_arguments(scalars))


def _layouts(hidden: int) -> Iterator[RowLayout]:
    """Every sharing whose rows fit the registers; there is one for every H up to MAX_HIDDEN.

    Eight halves fill the widest access. Sixteen INT8 codes would too, but gamma and beta stay
    halves: read 32 bytes apart, they take twice the sectors.
    """
    narrow = (8, 16, WARP)
    wide = tuple(range(2 * WARP, 16 * WARP + 1, WARP))
    for width in (8, 4, 2, 1):
        if hidden % width:
            continue
        for lanes in (*narrow, *wide):
            vectors = -(-hidden // (width * lanes))
            if vectors <= min(MAX_ACCESSES_PER_THREAD, MAX_VALUES_PER_THREAD // width):
                yield RowLayout(width, lanes, vectors)


def _rank(hidden: int, layout: RowLayout) -> tuple[int, ...]:
    # A row inside a warp needs no barrier: only rows that no warp can hold go to a whole block.
    if layout.lanes <= WARP:
        idle = layout.lanes * layout.vectors * layout.width - hidden
        return (0, -layout.width, idle, -layout.lanes)
    # Counted in the machine code: about 18 instructions per element, 80 for a warp's share of sums.
    instructions = layout.lanes // WARP * (18 * layout.vectors * layout.width + 80)
    return (1, -layout.width, instructions, layout.lanes)
