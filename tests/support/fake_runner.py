"""A runner without a model: each row's answer depends on that row's real tokens alone."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import Buckets, buckets_of
from trt_int8.runtime.padding import Side
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.spec.shapes import DimRange, Profile, input_shape

PAD = 77


def text_signature(
    batch: tuple[int, int] = (1, 32),
    tokens: tuple[int, int] = (1, 96),
    *,
    mask: bool = True,
    profiles: tuple[Profile, ...] = (),
) -> Signature:
    """[B, S] ids, and a mask if wanted; outputs `per_token` [B, S, 2] and `sums` [B]."""
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    low, high = (batch[0], tokens[0]), (batch[1], tokens[1])
    return Signature(
        inputs=tuple(TensorInfo(n, "int64", ("batch", "sequence"), low, high) for n in names),
        outputs=(
            TensorInfo("per_token", "int64", ("batch", "sequence", 2)),
            TensorInfo("sums", "int64", ("batch",)),
        ),
        token_axes=dict.fromkeys(names, 1),
        mask="attention_mask" if mask else None,
        profiles=profiles,
    )


def profile(batch: tuple[int, int], tokens: tuple[int, int]) -> Profile:
    sizes = [DimRange(min=low, opt=low, max=high) for low, high in (batch, tokens)]
    return tuple(input_shape(name, sizes) for name in ("input_ids", "attention_mask"))


def request(tokens: int, seed: int = 0) -> dict[str, Any]:
    """One sample."""
    ids = np.random.default_rng((seed, tokens)).integers(1, 1000, tokens)
    return {"input_ids": ids, "attention_mask": np.ones(tokens, np.int64)}


def requests(lengths: Iterable[int]) -> Iterator[dict[str, Any]]:
    return (request(tokens, seed) for seed, tokens in enumerate(lengths))


def answer_of(sample: Mapping[str, Any]) -> Outputs:
    """What the fake model gives for one sample, worked out without batches and padding."""
    ids = np.asarray(sample["input_ids"], np.int64)
    checksum = zlib.crc32(ids.tobytes())
    return {
        "per_token": np.stack([ids, np.full_like(ids, checksum)], axis=1),
        "sums": np.array(checksum + len(ids)),
    }


def same(outputs: Outputs | None, sample: Mapping[str, Any]) -> bool:
    wanted = answer_of(sample)
    return outputs is not None and all(
        np.array_equal(outputs[name], wanted[name]) and outputs[name].shape == wanted[name].shape
        for name in wanted
    )


@dataclass
class FakeRunner:
    """Counts what runs; `trouble` may raise for a batch, seeing its rows of real ids."""

    signature: Signature = field(default_factory=text_signature)
    workers: int = 2
    pad_values: Mapping[str, int] = field(default_factory=lambda: {"input_ids": PAD})
    pad_side: Side = "right"
    trouble: Callable[[list[np.ndarray]], None] = lambda rows: None
    delay_s: float = 0.0
    shapes: list[tuple[int, int]] = field(default_factory=list)
    most_at_once: int = 0
    running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor | None = None

    @property
    def buckets(self) -> Buckets | None:
        return buckets_of(self.signature)

    def __enter__(self) -> FakeRunner:
        self._pool = ThreadPoolExecutor(self.workers, "fake-runner")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._pool is not None
        self._pool.shutdown()

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        assert self._pool is not None
        return self._pool.submit(self._run, feeds)

    def _run(self, feeds: Feeds) -> Outputs:
        with self._lock:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            self.shapes.append(feeds["input_ids"].shape)
        try:
            time.sleep(random.random() * self.delay_s)
            return self._compute(feeds)
        finally:
            with self._lock:
                self.running -= 1

    def _compute(self, feeds: Feeds) -> Outputs:
        ids = feeds["input_ids"]
        mask = feeds.get("attention_mask", np.ones_like(ids)).astype(bool)
        assert (ids[~mask] == PAD).all(), "padding has the runner's value"
        for info in self.signature.inputs:
            array = feeds[info.name]
            assert array.dtype == info.dtype
            assert array.flags.c_contiguous
            assert all(s >= low for s, low in zip(array.shape, info.smallest, strict=True))
        rows = [row[kept] for row, kept in zip(ids, mask, strict=True)]
        self.trouble(rows)
        per_token = np.full((*ids.shape, 2), -1)
        for place, (row, kept) in enumerate(zip(rows, mask, strict=True)):
            per_token[place, kept] = answer_of({"input_ids": row})["per_token"]
        sums = np.array([answer_of({"input_ids": row})["sums"] for row in rows])
        return {"per_token": per_token, "sums": sums}


class KernelBrokeError(Exception):
    """What a foreign package raises."""


def fails_on(bad: list[int]) -> Any:
    """Trouble for every batch that holds one of these ids as its first token."""

    def trouble(rows: list[np.ndarray]) -> None:
        if any(row[0] in bad for row in rows):
            raise KernelBrokeError("the kernel broke\nsecond line")

    return trouble


def marked(lengths: list[int]) -> list[dict[str, Any]]:
    """Requests whose first token is 5000 + their place."""
    samples = list(requests(lengths))
    for place, sample in enumerate(samples):
        sample["input_ids"][0] = 5000 + place
    return samples
