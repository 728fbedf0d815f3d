"""BiasGeluQuant: which forms of the kernel there are, how each is compiled and launched.

y = quantize(gelu(x + bias)), element by element (Hendrycks and Gimpel 2016): exact, with erf, or
its tanh approximation. The contract is in `cuda/bias_gelu_quant.cu`, its bits in `gelu_model.py`.
"""

from __future__ import annotations

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

SOURCE: Final = "bias_gelu_quant.cu"
ENTRY: Final = "bias_gelu_quant"

# One thread per entry of the table of int8 inputs.
BLOCK: Final = 256
TABLE_BYTES: Final = 256
MAX_HIDDEN: Final = 2**20
# The error of the kernel's GELU, 7e-7, shall stay a small part of a step.
MIN_OUTPUT_SCALE: Final = 2.0**-16

Kind = Literal["float16", "int8"]


@dataclass(frozen=True)
class GeluForm:
    """The compile-time choices of one kernel.

    Attributes:
        hidden: H, the length of the last axis.
        x: element type of `x`.
        bias: whether there is a half bias [H].
        tanh: the tanh approximation instead of erf.
    """

    hidden: int
    x: Kind = "float16"
    bias: bool = True
    tanh: bool = False

    def __post_init__(self) -> None:
        """Refuse a length whose elements the kernel cannot count."""
        if not 1 <= self.hidden <= MAX_HIDDEN:
            raise PluginError(
                f"BiasGeluQuant got rows of {self.hidden} elements",
                wanted=f"1 to {MAX_HIDDEN}",
                todo="leave this GELU to TensorRT (--plugins without gelu)",
            )

    @property
    def table(self) -> bool:
        """Whether 256 results in shared memory replace the arithmetic: int8 without bias."""
        return self.x == "int8" and not self.bias

    @property
    def width(self) -> int:
        """Neighbouring elements of a thread: the largest power of two that divides H, at most 8.

        The table moves 16: its input and its output both have one byte per element.
        """
        widest = 16 if self.table else 8
        return next(
            width for width in (16, 8, 4, 2, 1) if width <= widest and not self.hidden % width
        )


@dataclass(frozen=True)
class GeluScalars:
    """What is known when a node is built, and given to the kernel as arguments.

    Attributes:
        output_scale: real value of one step of the int8 output.
        x_scale: real value of one step of an int8 `x`; unused for half.
    """

    output_scale: float
    x_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse scales outside the range that the error bound holds for."""
        check_scale("BiasGeluQuant", "output_scale", self.output_scale, MIN_OUTPUT_SCALE)
        check_scale("BiasGeluQuant", "x_scale", self.x_scale)


def variant(form: GeluForm, sm: int) -> KernelVariant:
    """The compilation of a form for one of `KERNEL_SMS`, or for a later SM to look at its SASS."""
    defines = sorted_defines(
        {
            "HIDDEN": form.hidden,
            "WIDTH": form.width,
            "X_KIND": 2 if form.x == "int8" else 1,
            "HAS_BIAS": form.bias,
            "TANH": form.tanh,
        }
    )
    return KernelVariant(SOURCE, ENTRY, sm, defines)


def grid_blocks(form: GeluForm, rows: Any) -> Any:
    """Blocks along x for `rows` rows of H: an int, or TensorRT's symbolic integer."""
    threads = rows * (form.hidden // form.width)
    return (threads + (BLOCK - 1)) // BLOCK


def launch(form: GeluForm, rows: int, sm: int) -> KernelLaunch:
    """The launch for `rows` rows, at least one.

    Raises:
        PluginError: there is no row, or more than 2^31 - 1 elements, or `sm` is too old.
    """
    if rows < 1 or rows * form.hidden >= 2**31:
        raise PluginError(
            f"BiasGeluQuant got {rows} rows of {form.hidden}",
            wanted="at least 1 and fewer than 2^31 elements, as any TensorRT tensor",
            todo="run a batch with tokens, or a smaller one",
        )
    shared = TABLE_BYTES if form.table else 0
    return KernelLaunch(variant(form, sm), (int(grid_blocks(form, rows)), 1, 1), BLOCK, shared)


def constant_arguments(scalars: GeluScalars) -> tuple[int, ...]:
    """The integer arguments after the number of rows: float bits, in the kernel's order."""
    return (float_bits(scalars.x_scale), float_bits(inverse_scale(scalars.output_scale)))


def scalar_arguments(scalars: GeluScalars, rows: int) -> tuple[int, ...]:
    """All integer arguments in the kernel's order: rows, then `constant_arguments`.

    They come after the inputs x, [bias] and before the output y.
    """
    return (rows, *constant_arguments(scalars))
