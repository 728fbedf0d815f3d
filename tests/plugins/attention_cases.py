"""Inputs for Int8Attention, what they must give in float64, and the kernel's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.plugins.attention import AttentionOptions, AttentionScalars, integer_arguments
from trt_int8.plugins.attention_model import AttentionTensors, int8_attention
from trt_int8.plugins.kernel import Argument, Input, Output

DoubleArray = NDArray[np.float64]

# Scores of deviation 1.4 with codes of deviation 40 at D = 64; outputs reach a good part of INT8.
SCALARS = AttentionScalars(0.03, 0.03, 0.02, 0.01, 0.125)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a call; ragged: sequences of at most `queries` tokens."""

    batch: int
    queries: int
    keys: int
    heads: int


def codes(rng: np.random.Generator, *shape: int, deviation: float = 40.0) -> NDArray[np.int8]:
    values = np.rint(rng.normal(0, deviation, shape))
    return np.asarray(np.clip(values, -128, 127), np.int8)


def random_tensors(options: AttentionOptions, sizes: Sizes, seed: int = 0) -> AttentionTensors:
    """Inputs with every special case the form has: rows that see no key, NaN, a length of 0."""
    rng = np.random.default_rng(seed)
    heads, head_dim = sizes.heads, options.head_dim
    if options.layout == "packed":
        qkv = codes(rng, sizes.batch, sizes.queries, 3, heads, head_dim)
        return AttentionTensors((qkv,), random_extra(rng, options, sizes))
    if options.layout == "ragged":
        lengths = rng.integers(0, sizes.queries + 1, sizes.batch)
        lengths[0] = sizes.queries
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        arrays = (codes(rng, int(bounds[-1]), heads, head_dim) for _ in range(3))
        return AttentionTensors(tuple(arrays), bounds)
    q = codes(rng, sizes.batch, sizes.queries, heads, head_dim)
    k, v = (codes(rng, sizes.batch, sizes.keys, heads, head_dim) for _ in range(2))
    return AttentionTensors((q, k, v), random_extra(rng, options, sizes))


def random_extra(
    rng: np.random.Generator, options: AttentionOptions, sizes: Sizes
) -> NDArray[Any] | None:
    if options.mask == "lengths":
        lengths = rng.integers(0, sizes.keys + 2, sizes.batch).astype(np.int32)
        lengths[-1] = 0 if sizes.batch > 1 else sizes.keys
        return lengths
    if options.mask == "none":
        return None
    rows = sizes.queries if options.mask == "full" else 1
    # Broadcast over heads or over the batch, as the exporters of models do.
    leading = (sizes.batch, 1) if options.mask == "keys" else (1, sizes.heads)
    mask = rng.normal(0, 2, (*leading, rows, sizes.keys)).astype(np.float32)
    mask[rng.random(mask.shape) < 0.3] = -np.inf
    mask[rng.random(mask.shape) < 0.05] = np.nan
    mask[rng.random(mask.shape) < 0.05] = np.finfo(np.float32).min
    mask[-1, -1, -1] = -np.inf
    return mask


def behind_padding(seed: int = 0) -> AttentionTensors:
    """Heads of 32 with a mask per query, whose first tile is a million lower.

    Then x + e is rounded to eighths, and in one row of sixteen down to a whole number.
    """
    tensors = random_tensors(AttentionOptions(32, mask="full"), Sizes(3, 70, 131, 2), seed)
    mask = np.random.default_rng(seed).normal(0, 2, (1, 2, 70, 131)).astype(np.float32)
    mask[..., :64] = -1e6
    return AttentionTensors(tensors.arrays, mask)


def kernel_arguments(
    options: AttentionOptions, scalars: AttentionScalars, tensors: AttentionTensors
) -> tuple[list[Argument], NDArray[Any]]:
    """Arguments in the kernel's order, and the array that its output goes to."""
    shape = tensors.shape(options)
    first = tensors.arrays[0]
    rows = first[:, :, 0] if options.layout == "packed" else first
    output = np.zeros(rows.shape, np.float16 if options.half_output else np.int8)
    extra = () if tensors.extra is None else (Input(tensors.extra),)
    inputs = [*(Input(array) for array in tensors.arrays), *extra]
    return [*inputs, *integer_arguments(options, shape, scalars), Output(output)], output


def probabilities(
    options: AttentionOptions, scalars: AttentionScalars, tensors: AttentionTensors
) -> DoubleArray:
    """softmax(q k^T ...) of the separate layout in float64 [B, N, S_q, S_k]; 0 for empty rows."""
    q, k = (array.astype(np.float64) for array in tensors.arrays[:2])
    factor = scalars.q_scale * scalars.k_scale * scalars.softmax_scale
    scores = np.einsum("bind,bjnd->bnij", q, k) * factor
    key = np.arange(k.shape[1])
    if options.additive:
        scores = scores + np.nan_to_num(np.asarray(tensors.extra, np.float64), nan=-np.inf)
    if options.mask == "lengths":
        hidden = key >= np.asarray(tensors.extra)[:, None, None, None]
        scores = np.where(hidden, -np.inf, scores)
    if options.causal:
        scores = np.where(key > np.arange(q.shape[1])[:, None], -np.inf, scores)
    scores = np.where(scores < -1e30, -np.inf, scores)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(-1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1.0))


def weighted(probability: DoubleArray, tensors: AttentionTensors) -> DoubleArray:
    """Probabilities times v, in steps of v: float64 [B, S_q, N, D]."""
    values = tensors.arrays[2].astype(np.float64)
    return np.asarray(np.einsum("bnij,bjnd->bind", probability, values))


def model(
    options: AttentionOptions, tensors: AttentionTensors, scalars: AttentionScalars = SCALARS
) -> NDArray[Any]:
    return int8_attention(options, scalars, tensors)
