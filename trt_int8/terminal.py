"""What the command line shows: progress bars and the final tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trt_int8.pipeline.build import BuildOutcome
    from trt_int8.pipeline.progress import Advance


class RichReporter:
    """Progress bars on a terminal; one line per finished stage elsewhere (logs, CI)."""

    def __init__(self, console: Console) -> None:
        """Show everything on `console`."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> RichReporter:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """One bar (without a total: a pulse)."""
        start = time.perf_counter()
        task = self._progress.add_task(title, total=total)
        yield lambda amount: self._progress.advance(task, amount)
        self._progress.update(task, total=total or 1, completed=total or 1)
        if not self._console.is_terminal:
            seconds = time.perf_counter() - start
            self._console.print(Text(f"{title:<30} {seconds:6.1f} s"))

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(f"note: {text}", style="dim"), soft_wrap=True)


def print_outcome(console: Console, outcome: BuildOutcome) -> None:
    """Short tables: coverage per engine, accuracy of the primary output, verdict, where to look."""
    table = Table(title=f"{outcome.manifest.model}: what runs INT8", title_justify="left")
    for title in ("engine", "matmuls INT8", "attentions fused", "as INT8", "GEMM outputs"):
        table.add_column(title, justify="left" if title in ("engine", "GEMM outputs") else "right")
    for engine in outcome.coverage:
        gemm_outputs = {n.output for n in engine.nodes if not n.fused_attention}
        table.add_row(
            engine.label,
            f"{engine.int8_count} of {len(engine.counted)}",
            f"{engine.attentions_fused} of {engine.attentions}",
            f"{engine.attentions_int8} of {engine.attentions}",
            ", ".join(sorted(gemm_outputs)),
        )
    console.print(table)
    console.print(_accuracy_table(outcome))
    verdict = outcome.manifest.verdict
    for failure in verdict.failures:
        console.print(Text(f"policy: {failure}", style="red"), soft_wrap=True)
    for warning in verdict.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    why = "policy met; speed was not measured" if not verdict.failures else "policy not met"
    console.print(Text(f"recommended: {verdict.recommended} engines ({why})", style="bold"))
    report = outcome.bundle / "report.html"
    here = Path.cwd()
    shown = report.relative_to(here) if report.is_relative_to(here) else report
    console.print(Text(f"report: {shown}"), soft_wrap=True)


def _accuracy_table(outcome: BuildOutcome) -> Table:
    accuracy = outcome.accuracy
    title = f"{accuracy.primary_output} on {accuracy.samples} held-out texts"
    table = Table(title=title, title_justify="left")
    for name in ("compared", "cosine mean", "cosine min", "SQNR dB", "max |diff|"):
        table.add_column(name, justify="left" if name == "compared" else "right")
    for pair in accuracy.pairs:
        found = accuracy.of(pair.measured, pair.reference)
        table.add_row(
            f"{pair.measured} / {pair.reference}",
            f"{found.cosine_mean:.5f}",
            f"{found.cosine_min:.5f}",
            f"{found.sqnr_db:.1f}",
            f"{found.max_abs:.4g}",
        )
    return table
