"""What the Session costs over bare OpenVINO, and what sorting by length gains."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.bench_runtime_timing import Plan, alternately, ratio_spread, time_spread
from scripts.runtime_peers.context import MAX_TOKENS, Context
from scripts.runtime_peers.session_peer import openvino_model
from trt_int8.calibrate.texts import Texts, TokenArrays, builtin_texts, read_texts, tokenize
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session

# Sentences of the sets by turns, so that lengths of every kind follow each other.
_SETS = (
    ("stsb/train.tsv.gz", "sentence1"),
    ("sst2/train.tsv.gz", "sentence"),
    ("xquad_en/test.tsv.gz", "context(= means same as row above)"),
    ("banking77/train.tsv.gz", "text"),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
_FIXED_BATCHES = (8, 16, 32)


def measure_overhead(context: Context, plan: Plan) -> dict[str, Any]:
    """Session.run against one infer call of the model that this Session compiled, at B8 S128."""
    feeds = context.full_feeds(8, 128)
    options = SessionOptions(threads=context.threads)
    with Session.open(context.bundle, device="cpu", options=options) as session:
        request = openvino_model(session).create_infer_request()
        calls: dict[str, Callable[[], object]] = {
            "session": partial(session.run, feeds),
            "bare": partial(request.infer, feeds, share_inputs=True, share_outputs=False),
        }
        times = alternately(calls, plan)
    ratio = ratio_spread(times["session"], times["bare"])
    return {
        "shape": [8, 128],
        **{f"{name}_ms": time_spread(each).scaled(1e3).as_json() for name, each in times.items()},
        "session_over_bare": ratio.as_json(),
    }


def measure_map(context: Context, texts: Texts, plan: Plan) -> dict[str, Any]:
    """`Session.map` against batches of one size in the order of the texts, through Session.run."""
    model = context.model
    tokens = tokenize(model.tokenizer, texts, model.input_names, MAX_TOKENS)
    lengths = [item["input_ids"].shape[1] for item in tokens]
    requests = [{name: array[0] for name, array in item.items()} for item in tokens]
    padding = {"input_ids": model.tokenizer.pad_token_id or 0}
    options = SessionOptions(threads=context.threads)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                Session.open(context.bundle, device="cpu", workers=count, options=options)
            )
            for count in (1, 2)
        )
        batches = {
            f"unsorted {size}, {how}": fixed_batches(tokens, size, length, padding)
            for size in _FIXED_BATCHES
            for how, length in (("padded to the longest", None), (f"padded to {MAX_TOKENS}", 128))
        }
        runs: dict[str, Callable[[], NDArray[np.float32]]] = {
            "map, 1 worker": partial(_map, one, requests),
            "map, 2 workers": partial(_map, two, requests),
            **{name: partial(_run_all, one, each) for name, each in batches.items()},
        }
        expected = _run_each(one, tokens)
        differences = {name: _difference(run(), expected) for name, run in runs.items()}
        times = alternately(runs, plan)
        padded = {name: sum(b["input_ids"].size for b in each) for name, each in batches.items()}
        padded |= {
            f"map, {n} worker{'s' * (n > 1)}": _mapped(s, requests) for n, s in ((1, one), (2, two))
        }
    real = sum(lengths)
    return {
        "sentences": len(tokens),
        "source": texts.origin,
        "tokens": {"sum": real, "least": min(lengths), "most": max(lengths)},
        "runs": {
            name: {
                "seconds": time_spread(times[name]).as_json(),
                "padding_share": round(1 - real / padded[name], 4),
                "largest_difference": differences[name],
                "map_is_faster": ratio_spread(times[name], times["map, 1 worker"]).as_json(),
            }
            for name in runs
        },
    }


def fixed_batches(
    tokens: list[TokenArrays], size: int, length: int | None, padding: dict[str, int]
) -> list[TokenArrays]:
    """Batches in the given order, each padded to its longest, or to `length`."""
    return [
        _stacked(tokens[start : start + size], length, padding)
        for start in range(0, len(tokens), size)
    ]


def _stacked(items: list[TokenArrays], length: int | None, padding: dict[str, int]) -> TokenArrays:
    wanted = length or max(item["input_ids"].shape[1] for item in items)
    result = {}
    for name in items[0]:
        rows = np.full((len(items), wanted), padding.get(name, 0), np.int64)
        for row, item in zip(rows, items, strict=True):
            row[: item[name].shape[1]] = item[name][0]
        result[name] = rows
    return result


def _map(session: Any, requests: list[TokenArrays]) -> NDArray[np.float32]:
    name = session.outputs[0].name
    return np.stack([answer.outputs[name] for answer in session.map(requests)])


def _mapped(session: Any, requests: list[TokenArrays]) -> int:
    run = session.map(requests)
    for _ in run:
        pass
    return int(run.statistics.padded_tokens)


def _run_all(session: Any, batches: list[TokenArrays]) -> NDArray[np.float32]:
    name = session.outputs[0].name
    return np.concatenate([session.run(batch)[name] for batch in batches])


def _run_each(session: Any, tokens: list[TokenArrays]) -> NDArray[np.float32]:
    return _run_all(session, tokens)


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max())


def mixed_texts(data: Path | None, count: int) -> Texts:
    """`count` real sentences of mixed length from the folder, else the package's, repeated."""
    if data is None:
        own = read_texts(builtin_texts()).items
        repeated = tuple(own[number % len(own)] for number in range(count))
        return Texts(repeated, "the package's sentences, repeated")
    columns = [_column(data / file, column) for file, column in _SETS]
    mixed = [(text,) for row in zip(*columns, strict=False) for text in row]
    return Texts(tuple(mixed[:count]), ", ".join(file for file, _ in _SETS))


def _column(path: Path, name: str) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        titles = next(stream).rstrip("\n").split("\t")
        index = titles.index(name)
        for line in stream:
            text = line.rstrip("\n").split("\t")[index]
            if text != "=":
                yield from (part for part in _SENTENCE_END.split(text) if part)
