"""Count the versions of the kernels that were tried, for docs/measured/kernel_versions.json.

    python -m scripts.kernel_versions

Needs no GPU and times nothing. Every version is built from the shipped sources (or a source in
scripts/kernel_ladder/), run in the tests' PTX interpreter, compared with the NumPy model, and
assembled; a version with wrong results stops the run. `--page` is the page with the tables' marks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.kernel_ladder import attention, rows, tables
from scripts.kernel_ladder.attention_error import (
    VALUE_MEANS,
    AttentionCase,
    error_ratios,
    lone_key_error,
    random_case,
)
from scripts.kernel_ladder.machine import has_loop, instructions, main_loop
from scripts.kernel_ladder.rung import LadderError, Rung, Trial
from scripts.update_readme import replace_marked
from tests.kernels.interpreter import Interpreter
from tests.kernels.report import RunReport
from tests.kernels.sass import assemble
from trt_int8.files import write_whole
from trt_int8.plugins.kernel import KERNEL_SMS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "trt_int8" / "plugins" / "README.md"
FIGURES = ROOT / "docs" / "measured" / "kernel_versions.json"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Ladder:
    """Versions of one kernel at one shape.

    Attributes:
        rungs: in the order of the table.
        trial: the shipped launch on an architecture.
        rows, elements: of the launch; what counts are divided by.
        loops: whether the machine code is a loop over tiles, counted by the turn.
    """

    rungs: tuple[Rung, ...]
    trial: Callable[[int], Trial]
    rows: int
    elements: int
    loops: bool = False


LADDERS: dict[str, Ladder] = {
    "attention": Ladder(
        attention.RUNGS,
        attention.trial,
        attention.LENGTH,
        attention.LENGTH * attention.HEAD_DIM,
        loops=True,
    ),
    **{
        name: Ladder(
            rungs,
            lambda sm, form=form: rows.layernorm_trial(form, sm),  # type: ignore[misc]
            rows.LAYERNORM_ROWS,
            rows.LAYERNORM_ROWS * form.hidden,
        )
        for name, form, rungs in (
            ("layernorm", rows.LAYERNORM, rows.LAYERNORM_RUNGS),
            ("layernorm_int8", rows.LAYERNORM_INT8, rows.LAYERNORM_INT8_RUNGS),
            ("layernorm_short", rows.LAYERNORM_SHORT, rows.LAYERNORM_SHORT_RUNGS),
        )
    },
    **{
        name: Ladder(
            rungs,
            lambda sm, form=form: rows.gelu_trial(form, sm),  # type: ignore[misc]
            rows.GELU_ROWS,
            rows.GELU_ROWS * form.hidden,
        )
        for name, form, rungs in (
            ("gelu", rows.GELU, rows.GELU_RUNGS),
            ("gelu_table", rows.GELU_TABLE, rows.GELU_TABLE_RUNGS),
        )
    },
}
# Keys, deviation of the scores.
ERROR_CASES = tuple((keys, spread) for keys in (64, 384, 1023) for spread in (0.5, 1.5, 3.0, 5.0))
LOWERING_LENGTHS = (128, 384, 1024)


def main() -> None:
    """Count every version on every architecture, then write figures and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    choices = parser.parse_args()
    figures = {name: climb(name, ladder) for name, ladder in LADDERS.items()}
    for rung in attention.RUNGS:
        if rung.judge != "bits" or rung.is_shipped:
            _progress("attention", rung.name, "errors")
            figures["attention"]["rungs"][rung.name].update(errors(rung))
    figures["attention"]["lowering"] = {str(n): lowering_share(n) for n in LOWERING_LENGTHS}
    write_whole(choices.json, (json.dumps(figures, indent=1) + "\n").encode())
    if choices.page.is_file():
        text = choices.page.read_text(encoding="utf-8")
        for mark, body in tables.tables(figures).items():
            text = replace_marked(text, mark, body)
        write_whole(choices.page, text.encode())


def climb(name: str, ladder: Ladder) -> Figures:
    """Figures of every version, by name and architecture."""
    rungs: Figures = {}
    for rung in ladder.rungs:
        rungs[rung.name] = {"verdict": rung.verdict}
        for sm in KERNEL_SMS:
            _progress(name, rung.name, f"sm_{sm}")
            rungs[rung.name][f"sm{sm}"] = count(rung, ladder.trial(sm), loops=ladder.loops)
    return {"rows": ladder.rows, "elements": ladder.elements, "rungs": rungs}


def count(rung: Rung, trial: Trial, *, loops: bool) -> Figures:
    """Run, check and assemble one version.

    Raises:
        LadderError: it gives wrong results, or has a loop where none is counted.
    """
    report, ptx = run(rung, trial)
    launch = rung.launch(trial.launch)
    variant = launch.variant
    sass, listing = assemble(ptx, variant.entry, variant.sm)
    code = instructions(listing)
    static = sum(one.family != "NOP" for one in code)
    found: Figures = {
        "threads": launch.grid[0] * launch.block,
        "ptx_instructions": report.total_instructions,
        "memory_instructions": sum(each.requests for each in report.global_.values()),
        "sector_bytes": 32 * sum(each.units for each in report.global_.values()),
        "registers": sass.registers,
        "stack_bytes": sass.stack_bytes,
    }
    if loops:
        loop = main_loop(code)
        parts = {"always": loop.always, "lowering": loop.lowering, "hiding": loop.hiding}
        found["tile"] = {part: dict(counts.most_common()) for part, counts in parts.items()}
    elif not has_loop(code):
        # Each warp executes all of it once.
        found["sass_instructions"] = static
        found["sass"] = dict(Counter(one.family for one in code if one.family != "NOP"))
    return found


def run(rung: Rung, trial: Trial) -> tuple[RunReport, str]:
    """Execute a version, and judge it before anything of it counts; its report and PTX.

    Raises:
        LadderError: it gives wrong results.
    """
    launch = rung.launch(trial.launch)
    ptx = rung.ptx(launch.variant)
    report = Interpreter().run_text(ptx, launch, trial.arguments)
    complaint = trial.complaint(rung.judge)
    if complaint:
        raise LadderError(f"{rung.name} on sm_{launch.variant.sm}: {complaint}")
    return report, ptx


def errors(rung: Rung) -> Figures:
    """Of a version of attention: the worst error against float64, and that of a lone key."""

    def attend(case: AttentionCase) -> Any:
        trial, output = attention.wide_trial(KERNEL_SMS[-1], case)
        run(rung, trial)
        return output

    ratios = [
        error_ratios(
            attend, random_case(attention.HEAD_DIM, keys, deviation=spread, value_mean=mean)
        ).plain
        for keys, spread in ERROR_CASES
        for mean in VALUE_MEANS
    ]
    lone = lone_key_error(attend, attention.HEAD_DIM)
    return {"error_to_plain": round(max(ratios), 3), "lone_key_error": round(lone, 6)}


def lowering_share(length: int) -> float:
    """Share of a warp's tiles in which it lowers an exponent, for random scores."""
    trial = attention.trial(KERNEL_SMS[-1], length=length)
    shipped = next(rung for rung in attention.RUNGS if rung.is_shipped)
    report, _ = run(shipped, trial)
    shuffles = sum(n for name, n in report.instructions.items() if name.startswith("shfl"))
    # Two per row of the warp's four fragments rows, there and once more for the normaliser.
    each, warps = 8, length // 32
    tiles = warps * -(-length // attention.KEYS_PER_TILE)
    return round((shuffles / each - warps) / tiles, 3)


def _progress(*words: str) -> None:
    sys.stderr.write(" ".join(words) + "\n")


if __name__ == "__main__":
    main()
