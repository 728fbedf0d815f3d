"""Int8Attention: which forms of the kernel there are, how each is compiled and launched.

output = quantize(softmax(q k^T * q_scale * k_scale * softmax_scale + mask) v * v_scale), one launch
for all heads, the probabilities never in memory. The contract is in `cuda/int8_attention.cu`, its
bits in `attention_model.py`.

Parameters of the kernel, in order:

- inputs: `q`, `k`, `v`; or `qkv` (packed); then `key_lengths`, `mask` or `cu_seqlens` where the
  form has one;
- integers: queries, keys, heads, score scale (float bits), output factor (float bits); for an
  additive mask also the sizes of its first three axes (1 where it is broadcast). Ragged: queries
  and keys are both the number of tokens, T;
- output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from trt_int8.errors import PluginError
from trt_int8.plugins.kernel import (
    KernelLaunch,
    KernelVariant,
    float_bits,
    sorted_defines,
)
from trt_int8.plugins.scales import check_scale

SOURCE: Final = "int8_attention.cu"
ENTRY: Final = "int8_attention"

HEAD_DIMS: Final = (16, 32, 64, 80, 96, 128)
# Sums of byte products stay inside int32: 255 * 128 * 65,536 < 2^31.
MAX_KEYS: Final = 65_536
# CUDA C++ Programming Guide, "Technical Specifications": grid size along y and z.
MAX_GRID_YZ: Final = 65_535
# A step of one in q k^T would move a probability by a fifth, far more than int8 inputs resolve; and
# up to here the kernel's exponents and whole numbers add exactly.
MAX_SCORE_SCALE: Final = 0.25
# Hidden scores are -infinity, which times zero would be NaN: the scale must not vanish in float32.
MIN_SCORE_SCALE: Final = 2.0**-64

WARPS: Final = 4
BLOCK: Final = 32 * WARPS
KEYS_PER_TILE: Final = 64

MaskKind = Literal["none", "lengths", "keys", "full"]
Layout = Literal["separate", "packed", "ragged"]
# Numbers of the kinds in the kernel's source.
_MASKS: Final[dict[MaskKind, int]] = {"none": 0, "lengths": 1, "keys": 2, "full": 3}


@dataclass(frozen=True)
class AttentionOptions:
    """The compile-time choices of one kernel.

    Attributes:
        head_dim: D, one of `HEAD_DIMS`.
        mask: "none"; "lengths": int32 [B], keys from that number on do not count; "keys": float32
            [B or 1, N or 1, 1, S_k], added to the scores of every query; "full": float32
            [B or 1, N or 1, S_q, S_k] (S_q may be 1 here too). NaN and values below -2.9e6 in a
            mask hide the key; values above 1e6 count as 1e6.
        causal: query i sees the keys j <= i only, counted from the top left corner as PyTorch's
            `is_causal` does.
        layout: "separate": q [B, S_q, N, D], k and v [B, S_k, N, D]; "packed": qkv
            [B, S, 3, N, D]; "ragged": q, k, v [T, N, D], sequence b has the tokens
            cu_seqlens[b] .. cu_seqlens[b + 1] - 1 (int32 [B + 1], from 0 to T, rising).
        half_output: output is float16 instead of int8.
    """

    head_dim: int
    mask: MaskKind = "none"
    causal: bool = False
    layout: Layout = "separate"
    half_output: bool = False

    def __post_init__(self) -> None:
        """Refuse a form that there is no kernel for."""
        if self.head_dim not in HEAD_DIMS:
            raise PluginError(
                f"Int8Attention got heads of {self.head_dim} elements",
                wanted=f"one of {', '.join(map(str, HEAD_DIMS))}",
                todo="leave this attention to TensorRT (--plugins without attention)",
            )
        _check_choice("mask", self.mask, get_args(MaskKind))
        _check_choice("layout", self.layout, get_args(Layout))
        if self.layout == "ragged" and self.mask != "none":
            raise PluginError(
                f"Int8Attention got ragged tokens with the mask {self.mask!r}",
                wanted="no mask: cu_seqlens already says which keys there are",
                todo="drop the mask, or pad the sequences and use the separate layout",
            )

    @property
    def additive(self) -> bool:
        """Whether a float mask is an input."""
        return self.mask in ("keys", "full")

    @property
    def rows_per_warp(self) -> int:
        """Queries of a warp: 32 halve the loads of K and V, where registers allow it."""
        return 32 if self.head_dim <= (32 if self.mask == "full" else 64) else 16

    @property
    def rows_per_block(self) -> int:
        """Queries of a block."""
        return WARPS * self.rows_per_warp

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: two tiles of K and two of V.

        A row takes an odd number of 16-byte words: ldmatrix reads eight rows at once, and then they
        lie in eight different groups of banks.
        """
        words = self.head_dim // 16
        return 2 * 2 * KEYS_PER_TILE * 16 * (words if words % 2 else words + 1)


@dataclass(frozen=True)
class AttentionScalars:
    """What is known when a node is built, and given to the kernel as arguments.

    Attributes:
        q_scale: real value of one step of q.
        k_scale: the same of k.
        v_scale: the same of v.
        output_scale: the same of an int8 output; unused for half.
        softmax_scale: factor of q k^T, usually 1 / sqrt(D).
    """

    q_scale: float
    k_scale: float
    v_scale: float
    output_scale: float
    softmax_scale: float

    def __post_init__(self) -> None:
        """Refuse scales outside the range that the error bounds hold for."""
        for name in ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale"):
            check_scale("Int8Attention", name, getattr(self, name))
        if not MIN_SCORE_SCALE <= self.score_scale <= MAX_SCORE_SCALE:
            raise PluginError(
                "Int8Attention got q_scale * k_scale * softmax_scale * log2(e) = "
                f"{self.score_scale:.4g}",
                wanted=f"2^-64 to {MAX_SCORE_SCALE}: above, int8 cannot tell two scores apart",
                todo="calibrate q and k again, or keep this attention in half",
            )

    @property
    def score_scale(self) -> float:
        """q_scale * k_scale * softmax_scale * log2(e): one step of q k^T, as a power of two.

        Rounded to 21 significant bits, so that its product with 3 * 2^22 is exact in float32.
        """
        product = self.q_scale * self.k_scale * self.softmax_scale * math.log2(math.e)
        mantissa, exponent = math.frexp(product)
        return float(np.float32(math.ldexp(round(math.ldexp(mantissa, 21)), exponent - 21)))


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one call.

    Attributes:
        batch: B.
        queries: S_q; ragged: T, the tokens of all sequences.
        keys: S_k; the same as `queries` where q and k come together.
        heads: N.
        longest: ragged: at least the length of the longest sequence; 0 means T.
        mask: the first three sizes of an additive mask.
    """

    batch: int
    queries: int
    keys: int
    heads: int
    longest: int = 0
    mask: tuple[int, int, int] = (1, 1, 1)


def variant(options: AttentionOptions, sm: int) -> KernelVariant:
    """The compilation of a form for one of `KERNEL_SMS`, or for a later SM to look at its SASS.

    Raises:
        PluginError: the architecture has no int8 matrix instruction of this kind.
    """
    defines = sorted_defines(
        {
            "HEAD_DIM": options.head_dim,
            "MASK": _MASKS[options.mask],
            "CAUSAL": options.causal,
            "PACKED": options.layout == "packed",
            "RAGGED": options.layout == "ragged",
            "HALF_OUTPUT": options.half_output,
        }
    )
    return KernelVariant(SOURCE, ENTRY, sm, defines)


def grid_blocks(options: AttentionOptions, queries: Any) -> Any:
    """Blocks along x for `queries` rows of a sequence; y is heads, z is batch.

    `queries` is an int or TensorRT's symbolic integer. Blocks past the end of a ragged sequence
    leave at once, so T is a safe number there.
    """
    rows = options.rows_per_block
    return (queries + (rows - 1)) // rows


def constant_arguments(options: AttentionOptions, scalars: AttentionScalars) -> tuple[int, int]:
    """Score scale and output factor, as float bits: the integers after queries, keys and heads."""
    step = 1.0 if options.half_output else scalars.output_scale
    return float_bits(scalars.score_scale), float_bits(scalars.v_scale / step)


def integer_arguments(
    options: AttentionOptions, shape: AttentionShape, scalars: AttentionScalars
) -> tuple[int, ...]:
    """All integers of a launch, in order."""
    sizes = (shape.queries, shape.keys, shape.heads)
    mask = shape.mask if options.additive else ()
    return (*sizes, *constant_arguments(options, scalars), *mask)


def launch(options: AttentionOptions, shape: AttentionShape, sm: int) -> KernelLaunch:
    """The launch of one call.

    Raises:
        PluginError: a size is outside what the kernel does; the message names it.
    """
    check_shape(options, shape)
    rows = shape.queries
    if options.layout == "ragged" and shape.longest:
        rows = shape.longest
    grid = (int(grid_blocks(options, rows)), shape.heads, shape.batch)
    return KernelLaunch(variant(options, sm), grid, BLOCK, options.shared_bytes)


def check_shape(options: AttentionOptions, shape: AttentionShape) -> None:
    """Refuse sizes that the kernel does not do.

    Raises:
        PluginError: a size is out of its range, or q, k and the mask do not fit together.
    """
    limits = {"batch": MAX_GRID_YZ, "heads": MAX_GRID_YZ, "keys": MAX_KEYS, "queries": 2**30}
    for name, limit in limits.items():
        if not 1 <= getattr(shape, name) <= limit:
            raise PluginError(
                f"Int8Attention got {name} = {getattr(shape, name)}",
                wanted=f"1 to {limit}",
                todo="split the input, or leave this attention to TensorRT",
            )
    if options.layout != "separate" and shape.queries != shape.keys:
        raise PluginError(
            f"Int8Attention got {shape.queries} queries and {shape.keys} keys in one tensor",
            wanted=f"equal numbers in the layout {options.layout!r}",
            todo="use the separate layout for cross attention",
        )
    if options.additive:
        sizes = (shape.batch, shape.heads, shape.queries if options.mask == "full" else 1)
        if any(have not in (1, want) for have, want in zip(shape.mask, sizes, strict=True)):
            raise PluginError(
                f"Int8Attention got a mask of {shape.mask} before its keys",
                wanted=f"each 1 or as in {sizes}",
                todo="broadcast the mask in the model",
            )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PluginError(
            f"Int8Attention got {name} = {value!r}",
            wanted=f"one of {', '.join(known)}",
            todo="name one of them",
        )
