"""Build small models of every architecture with each recipe, for docs/architectures.md.

    python -m scripts.measure_architectures [--only bert,vit/full]

Seeded models of two layers, real engines for SM75 and SM80. Finished rows are kept in
docs/measured/architectures.json, so that an interrupted run goes on where it stopped; --again
measures them anew. The table goes into the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.update_readme import replace_marked
from tests.support.architectures import ARCHITECTURES, arrays_for
from tests.support.tiny_folder import write_texts
from trt_int8.errors import TrtInt8Error, first_line
from trt_int8.files import write_whole
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.manifest import Policy
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.targets import parse_targets

DOCS = Path(__file__).parent.parent / "docs"
RECIPES = ("ffn", "linear", "linear+attention", "full")
# Short texts; the default profile would ask for more positions than these models have (MPNet: 38).
_TEXT_SHAPES = "batch=1:2:4,seq=8:16:36"
# Figures are wanted even where a policy would recommend FP16.
_ANY = Policy(min_coverage=0.0, min_cosine=-1.0)
_DIED = "process ended with code"
_MARK, _PAGE = "architectures", "architectures.md"

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing; write figures and page after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="NAME or NAME/RECIPE, comma-separated")
    parser.add_argument("--again", action="store_true", help="measure finished rows anew")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of page and figures")
    options = parser.parse_args()
    figures, page = options.docs / "measured" / "architectures.json", options.docs / _PAGE
    known: dict[str, Row] = json.loads(figures.read_text("utf-8")) if figures.exists() else {}
    wanted = [row for row in all_rows() if is_wanted(row, options.only)]
    todo = [row for row in wanted if options.again or "crash" in known.get(row, {"crash": ""})]
    if not wanted:
        parser.error(f"--only {options.only} fits none of {', '.join(ARCHITECTURES)}")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(wanted), completed=len(wanted) - len(todo))
        for row in todo:
            progress.update(task, description=row)
            known[row] = measure(*row.split("/", 1))
            write_whole(figures, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
            _write_page(page, known)
            progress.advance(task)
    _write_page(page, known)


def _write_page(page: Path, known: dict[str, Row]) -> None:
    text = replace_marked(page.read_text(encoding="utf-8"), _MARK, table(known))
    write_whole(page, text.encode())


def all_rows() -> list[str]:
    """`NAME/RECIPE` of every row, in the order of the table."""
    return [f"{name}/{recipe}" for name in ARCHITECTURES for recipe in RECIPES]


def is_wanted(row: str, only: str) -> bool:
    """Tell whether a row is among `--only`; an empty one means all."""
    asked = [each.strip() for each in only.split(",") if each.strip()]
    return not asked or row in asked or row.split("/", 1)[0] in asked


def measure(name: str, recipe: str) -> Row:
    """Build one row; what is refused is told in words, what fails otherwise as a crash."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = run_build(_options(Path(folder), name, recipe), SilentReporter())
            return _figures(outcome)
        except TrtInt8Error as error:
            # A worker that died refused nothing.
            kind = "crash" if _DIED in str(error) else "refused"
            return {kind: str(error).replace(folder, "")}
        except Exception as error:  # noqa: BLE001 - one row must not end the run; it is tried again
            return {"crash": f"{type(error).__name__}: {first_line(error)}".replace(folder, "")}


def _options(folder: Path, name: str, recipe: str) -> BuildOptions:
    model = ARCHITECTURES[name](folder / name)
    is_text = (model / "tokenizer.json").is_file()
    calib = folder / ("texts.txt" if is_text else "arrays.npz")
    if is_text:
        write_texts(calib)
    else:
        np.savez(calib, **arrays_for(name))  # type: ignore[arg-type]
    return BuildOptions(
        model=str(model),
        recipe=load_recipe(recipe),
        calib=calib,
        shapes=parse_shapes(_TEXT_SHAPES) if is_text else None,
        out=folder / "bundle",
        targets=parse_targets("t4,a100"),
        flavour="rtx",
        policy=_ANY,
    )


def _figures(outcome: BuildOutcome) -> Row:
    engines = {
        f"sm{each.sm}": {
            "int8": each.int8_count,
            "counted": len(each.counted),
            "attentions": each.attentions,
            "attentions_fused": each.attentions_fused,
            "attentions_int8": each.attentions_int8,
            "engine_bytes": (outcome.bundle / f"sm{each.sm}" / "int8.engine").stat().st_size,
        }
        for each in outcome.coverage
        if each.precision == "int8"
    }
    return {
        "engines": engines,
        "cosine": outcome.accuracy.of("int8", "fp32").cosine_mean,
        "onnx_bytes": (outcome.bundle / "model.int8.onnx").stat().st_size,
        "tensorrt_version": outcome.manifest.tensorrt_version,
    }


def table(known: dict[str, Row]) -> str:
    """The rows as Markdown; figures that are equal on both targets are written once."""
    lines = [
        "| architecture | recipe | matmuls INT8 | attentions fused (INT8) | cosine to FP32 "
        "| ONNX MB | engine MB, SM75 / SM80 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in all_rows():
        if row not in known:
            continue
        name, recipe = row.split("/", 1)
        lines.append(f"| {name} | `{recipe}` | {' | '.join(_cells(known[row]))} |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    if "engines" not in row:
        words = f"refused: {row['refused']}" if "refused" in row else f"failed: {row['crash']}"
        return [words.replace("|", "\\|"), "", "", "", ""]
    engines = [row["engines"][key] for key in sorted(row["engines"])]
    return [
        _once(f"{e['int8']} / {e['counted']}" for e in engines),
        _once(
            f"{e['attentions_fused']} / {e['attentions']} ({e['attentions_int8']})" for e in engines
        ),
        f"{row['cosine']:.4f}",
        f"{row['onnx_bytes'] / 1e6:.2f}",
        " / ".join(f"{e['engine_bytes'] / 1e6:.2f}" for e in engines),
    ]


def _once(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


if __name__ == "__main__":
    main()
