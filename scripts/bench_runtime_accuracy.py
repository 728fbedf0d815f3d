"""How right each peer is: cosine against PyTorch float32, and Spearman on STS-B if at hand."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from scripts.runtime_peers.context import MAX_TOKENS, Context, Run
from trt_int8.calibrate.texts import (
    Texts,
    TokenArrays,
    builtin_texts,
    padded_batches,
    read_texts,
    split,
    tokenize,
)

_BATCH = 8
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Yardstick:
    """Sentences that nobody calibrated with, and what is right about them.

    Attributes:
        batches: [8, 128] each, padded: every peer computes shapes it is timed at.
        count: sentences; the last batch is filled up with repeats.
        exact: of PyTorch in float32 [count, H].
        scores: human ones of each pair of halves; None for other sentences than STS-B's.
        source: what the sentences are.
    """

    batches: list[TokenArrays]
    count: int
    exact: Embeddings
    scores: list[float] | None
    source: str

    def measure(self, run: Run) -> dict[str, float]:
        """Mean and least cosine against float32, and Spearman x 100 if there are scores."""
        found = self._embed(run)
        cosines = cosine(found, self.exact)
        result = {
            "mean_cosine": round(float(cosines.mean()), 5),
            "least_cosine": round(float(cosines.min()), 5),
        }
        if self.scores is not None:
            result["stsb_spearman_x100"] = round(spearman(found, self.scores), 2)
        return result

    def _embed(self, run: Run) -> Embeddings:
        return np.concatenate([run(batch) for batch in self.batches])[: self.count]


def yardstick(context: Context, data: Path | None, limit: int | None) -> Yardstick:
    """STS-B dev below `data`, else held-out sentences of the package; at most `limit` pairs."""
    scores, texts = read_stsb(data, limit) if data is not None else (None, _held_out(limit))
    names = context.model.input_names
    tokens = tokenize(context.model.tokenizer, texts, names, MAX_TOKENS)
    count = len(tokens)
    tokens += tokens[: -count % _BATCH]
    padding = {"input_ids": context.model.tokenizer.pad_token_id or 0}
    batches = padded_batches(tokens, _BATCH, MAX_TOKENS, padding)
    with torch.no_grad():
        parts = [
            context.model.wrapper(*(torch.from_numpy(b[n]) for n in names))[0].numpy()
            for b in batches
        ]
    source = "STS-B dev" if scores is not None else "the package's held-out sentences"
    return Yardstick(batches, count, np.concatenate(parts)[:count], scores, source)


def read_stsb(data: Path, limit: int | None = None) -> tuple[list[float], Texts]:
    """Scores, and all first sentences followed by all second ones, of `stsb/dev.tsv.gz`."""
    path = data / "stsb" / "dev.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:][:limit]
    first, second = [(row[1],) for row in rows], [(row[2],) for row in rows]
    return [float(row[0]) for row in rows], Texts(tuple(first + second), str(path))


def _held_out(limit: int | None) -> Texts:
    _, held = split(read_texts(builtin_texts()), 1)
    return Texts(held.items[:limit], held.origin)


def cosine(one: Embeddings, two: Embeddings) -> NDArray[np.float64]:
    """Of each row of [N, H] with the same row of the other."""
    left, right = one.astype(np.float64), two.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    found: NDArray[np.float64] = np.sum(left * right, axis=1) / norms
    return found


def spearman(embeddings: Embeddings, scores: list[float]) -> float:
    """Spearman x 100 of the cosines of the two halves of the rows against the scores."""
    half = len(scores)
    return float(spearmanr(cosine(embeddings[:half], embeddings[half:]), scores).statistic * 100)
