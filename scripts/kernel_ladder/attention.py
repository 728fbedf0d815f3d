"""Versions of int8_attention: one head, D = 64, 384 queries and keys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scripts.kernel_ladder.attention_error import AttentionCase
from scripts.kernel_ladder.rung import Change, Judge, Rung, Trial
from tests.plugins import attention_cases as cases
from trt_int8.plugins import attention
from trt_int8.plugins.attention import AttentionOptions
from trt_int8.plugins.attention_model import AttentionTensors, int8_attention

HEAD_DIM, LENGTH = 64, 384
# 16 queries, 32 keys: a product per 8 keys and 32 elements of q k^T, one per 8 elements of p v.
PRODUCTS_PER_32_KEYS = 4 * (HEAD_DIM // 32) + HEAD_DIM // 8
KEYS_PER_TILE = attention.KEYS_PER_TILE

_KERNEL, _SOFTMAX, _TILES = "int8_attention.cu", "attention_softmax.cuh", "attention_tiles.cuh"

_ROWS_16 = Change(_TILES, "HEAD_DIM <= (MASK == 3 ? 32 : 64) ? 2 : 1", "1")

_CONVERSIONS = (
    Change(_SOFTMAX, "constexpr int OFFSET_BITS = 0x4B400000;", "constexpr int OFFSET_BITS = 0;"),
    Change(_SOFTMAX, "offset_(-OFFSET * score_scale)", "offset_(0.0f)"),
    Change(_SOFTMAX, "ptx::int_as_float(scores[m][", "static_cast<float>(scores[m][", times=2),
    Change(_SOFTMAX, "power(ptx::int_as_float(scores[i])", "power(static_cast<float>(scores[i])"),
)

# One ldmatrix brings a word of 32 keys, so a fragment's two registers come from two of them.
_WORD_BY_WORD = (
    Change(
        _KERNEL,
        "            uint32_t r[4];\n"
        "            ptx::ldmatrix_x4(r, lane_row + 8 * j * STRIDE + 32 * step);\n",
        "            uint32_t low[4], high[4];\n"
        "            ptx::ldmatrix_x4(low, lane_row + 8 * j * STRIDE + 32 * step);\n"
        "            ptx::ldmatrix_x4(high, lane_row + 8 * j * STRIDE + 32 * step + 16);\n",
    ),
    Change(_KERNEL, "j < SCORE_TILES; j += 2", "j < SCORE_TILES; j += 4"),
    Change(_KERNEL, "for (int n = 0; n < 2; ++n) {", "for (int n = 0; n < 4; ++n) {"),
    Change(_KERNEL, "{r[2 * n], r[2 * n + 1]}", "{low[n], high[n]}"),
    Change(_KERNEL, "(lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16", "lane * STRIDE"),
)

_LONG_STRIDES = (
    Change(_KERNEL, "    int row_bytes; ", "    int64_t row_bytes; "),
    Change(_KERNEL, "    int output_row; ", "    int64_t output_row; "),
    Change(_TILES, "const int8_t* v, int row_bytes", "const int8_t* v, int64_t row_bytes"),
    Change(_TILES, "    int row_bytes_;", "    int64_t row_bytes_;"),
    Change(_TILES, "const int8_t* q, int row_bytes", "const int8_t* q, int64_t row_bytes"),
)

_SUM_OF_BYTES = (
    Change(
        _SOFTMAX,
        "two_bytes(high, m, r), 0x5410);\n",
        "two_bytes(high, m, r), 0x5410);\n"
        "            sum_[m][r] = ptx::dot4_u8(a[i], 0x01010101u, sum_[m][r]);\n",
    ),
    Change(_SOFTMAX, "        sum_[m][r] += word[0] + word[1];\n", ""),
    Change(_SOFTMAX, "if (half == 1) {", "if (false) {"),
    Change(_SOFTMAX, "constexpr float BYTE_ONE = 256.0f;", "constexpr float BYTE_ONE = 1.0f;"),
)

_WHOLE_EXPONENT = (Change(_SOFTMAX, "bias_of(-step_ * ceilf(steps))", "bias_of(-ceilf(x))"),)

# The usual form: each tile's products are summed from zero, converted, and added in float.
_FLOAT_SUMS = (
    Change(_SOFTMAX, "using Accumulators = int[M_TILES]", "using Accumulators = float[M_TILES]"),
    Change(
        _SOFTMAX,
        "        sum_[m][r] >>= shift;\n",
        "        sum_[m][r] >>= shift;\n"
        "        const float factor = ptx::int_as_float((127 - shift) << 23);\n",
    ),
    Change(_SOFTMAX, "sums[m][n][2 * r] >>= shift;", "sums[m][n][2 * r] *= factor;"),
    Change(_SOFTMAX, "sums[m][n][2 * r + 1] >>= shift;", "sums[m][n][2 * r + 1] *= factor;"),
    Change(_KERNEL, "const int (&even)[4] = sums", "const float (&even)[4] = sums"),
    Change(_KERNEL, "const int (&odd)[4] = sums", "const float (&odd)[4] = sums"),
    # Words outside, halves of the tile inside: a word's products meet before the conversion.
    Change(
        _KERNEL,
        "        uint32_t p[M_TILES][4];\n"
        "#pragma unroll\n"
        "        for (int m = 0; m < M_TILES; ++m) softmax.probabilities(p[m], scores, m, half);\n"
        "#pragma unroll\n"
        "        for (int word = 0; word < WORDS; ++word) {\n",
        "#pragma unroll\n"
        "        for (int m = 0; m < M_TILES; ++m) {\n"
        "            softmax.probabilities(p[half][m], scores, m, half);\n"
        "        }\n"
        "    }\n"
        "#pragma unroll\n"
        "    for (int word = 0; word < WORDS; ++word) {\n"
        "        int part[M_TILES][2][4] = {};\n"
        "#pragma unroll\n"
        "        for (int half = 0; half < 2; ++half) {\n",
    ),
    Change(
        _KERNEL,
        "const Scores& scores, const uint8_t* lane_row) {\n#pragma unroll\n    for (int half",
        "const Scores& scores, const uint8_t* lane_row) {\n"
        "    uint32_t p[2][M_TILES][4];\n"
        "#pragma unroll\n"
        "    for (int half",
    ),
    Change(
        _KERNEL,
        "                ptx::mma_u8s8(sums[m][2 * word], p[m], even);\n"
        "                ptx::mma_u8s8(sums[m][2 * word + 1], p[m], odd);\n"
        "            }\n"
        "        }\n",
        "                ptx::mma_u8s8(part[m][0], p[half][m], even);\n"
        "                ptx::mma_u8s8(part[m][1], p[half][m], odd);\n"
        "            }\n"
        "        }\n"
        "#pragma unroll\n"
        "        for (int i = 0; i < M_TILES * 8; ++i) {\n"
        "            float& sum = sums[i / 8][2 * word + i / 4 % 2][i % 4];\n"
        "            sum += static_cast<float>(part[i / 8][i / 4 % 2][i % 4]);\n"
        "        }\n",
    ),
)

RUNGS = (
    Rung(
        "the textbook form: the next three at once",
        "no",
        changes=(*_CONVERSIONS, *_FLOAT_SUMS, _ROWS_16),
        blocks=-(-LENGTH // 64),
        judge="contract",
    ),
    Rung(
        "conversions of the sums to float",
        "no",
        changes=_CONVERSIONS,
    ),
    Rung(
        "sums of P V in float, converted tile by tile",
        "no",
        changes=_FLOAT_SUMS,
        judge="contract",
    ),
    Rung(
        "16 queries per warp",
        "for D > 64, and D = 64 with a full mask, where registers allow no more",
        changes=(_ROWS_16,),
        blocks=-(-LENGTH // 64),
    ),
    Rung(
        "K fragments from two ldmatrix, a word of 32 keys each",
        "no",
        changes=_WORD_BY_WORD,
    ),
    Rung("64-bit strides of rows", "no: nothing gained, more registers", changes=_LONG_STRIDES),
    Rung(
        "row sums of the bytes (`dp4a`)",
        "no: its error",
        changes=_SUM_OF_BYTES,
        judge="bytes",
    ),
    Rung(
        "e a whole number from the first key on",
        "no: its error",
        changes=_WHOLE_EXPONENT,
        judge="whole",
    ),
    Rung("**shipped**", "**yes**"),
)


def trial(sm: int, *, length: int = LENGTH) -> Trial:
    """Self-attention of random codes, int8 out."""
    options = AttentionOptions(HEAD_DIM)
    sizes = cases.Sizes(batch=1, queries=length, keys=length, heads=1)
    tensors = cases.random_tensors(options, sizes)
    arguments, output = cases.kernel_arguments(options, cases.SCALARS, tensors)
    model = int8_attention(options, cases.SCALARS, tensors)

    def complaint(judge: Judge) -> str:
        wanted = model if judge in ("bits", "contract") else _reference(tensors, judge)
        steps = np.abs(output.astype(int) - wanted.astype(int))
        if steps.max() > (0 if judge == "bits" else 1):
            return f"{np.count_nonzero(steps)} codes differ, by up to {steps.max()}"
        return ""

    launch = attention.launch(options, tensors.shape(options), sm)
    return Trial(launch, arguments, complaint)


def wide_trial(sm: int, case: AttentionCase) -> tuple[Trial, NDArray[np.float16]]:
    """The same kernel with half output, for errors; and the array that its output goes to."""
    shape = case.tensors.shape(case.options)
    arguments, output = cases.kernel_arguments(case.options, case.scalars, case.tensors)
    launch = attention.launch(case.options, shape, sm)
    return Trial(launch, arguments, lambda _: ""), output


def _reference(tensors: AttentionTensors, judge: Judge) -> NDArray[np.int8]:
    """Codes of attention in float64 with weights P / sum: P in steps of 1/255 of 2^e of its tile.

    e starts at minus the row's largest score of the first tile, "whole": rounded down to a whole
    number, and goes down by whole numbers. The sum is that of P ("bytes"), or of what P rounds.
    """
    q, k = (array[0, :, 0].astype(np.float64) for array in tensors.arrays[:2])
    x = q @ k.T * cases.SCALARS.score_scale
    weights = np.empty_like(x)
    top = x[:, :KEYS_PER_TILE].max(-1, keepdims=True)
    e = -np.ceil(top) if judge == "whole" else -top
    for first in range(0, x.shape[1], KEYS_PER_TILE):
        tile = x[:, first : first + KEYS_PER_TILE]
        e = e - np.maximum(np.ceil(tile.max(-1, keepdims=True) + e), 0)
        weights[:, first : first + KEYS_PER_TILE] = np.rint(255 * 2 ** (tile + e)) * 2**-e
    summed = weights if judge == "bytes" else 255 * 2**x
    output = cases.weighted((weights / summed.sum(-1, keepdims=True))[None, None], tensors)
    codes = np.rint(output * cases.SCALARS.v_scale / cases.SCALARS.output_scale)
    return np.clip(codes, -128, 127).astype(np.int8)
