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

from trt_int8.spec.study import STUDY_PAGE, CalibrationStudy, TensorStudy

if TYPE_CHECKING:
    from trt_int8.pipeline.build import BuildOutcome
    from trt_int8.pipeline.progress import Advance

_MAX_FLAGGED = 10


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
        for part in engine.profiles:
            table.add_row(
                f"  {part.profile}",
                f"{part.int8} of {len(engine.counted)}",
                f"{part.attentions_fused} of {engine.attentions}",
                f"{part.attentions_int8} of {engine.attentions}",
                style="dim",
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
    console.print(Text(f"report: {_shown(outcome.bundle / 'report.html')}"), soft_wrap=True)


def print_study(console: Console, study: CalibrationStudy, folder: Path) -> None:
    """The methods, what is odd about the tensors, the recommended method, and where to look.

    Args:
        console: where to print.
        study: what was found.
        folder: where the page is.
    """
    console.print(_method_table(study))
    for result in study.methods:
        if result.failure is not None:
            console.print(Text(f"{result.method}: {result.failure}", style="red"), soft_wrap=True)
    flagged = study.flagged()
    for tensor in flagged[:_MAX_FLAGGED]:
        console.print(Text(f"look at {tensor.name}: {_flag(tensor)}", "yellow"), soft_wrap=True)
    if len(flagged) > _MAX_FLAGGED:
        console.print(Text(f"… and {len(flagged) - _MAX_FLAGGED} more tensors", "yellow"))
    if study.recommended is None:
        text = "no method is recommended: none that TensorRT takes gave ranges and a finite output"
        console.print(Text(text, style="red"), soft_wrap=True)
    else:
        why = f"the output closest to float on {study.texts_held_out} held-out texts"
        console.print(Text(f"recommended: {study.recommended} ({why})", "bold"), soft_wrap=True)
        setting = f'method = "{study.recommended}"'
        console.print(Text(f"in a recipe:\n  [calibration]\n  {setting}"), soft_wrap=True)
    console.print(Text(f"page: {_shown(folder / STUDY_PAGE)}"), soft_wrap=True)


def _method_table(study: CalibrationStudy) -> Table:
    title = f"{study.model}: {len(study.tensors)} tensors on {study.samples} texts, best first"
    table = Table(title=Text(title), title_justify="left")
    for name in (
        *("method", "mean SQNR dB", "worst SQNR dB", "tensors clipped"),
        *("output cosine mean", "output cosine min"),
    ):
        is_name = name == "method"
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
    for result in study.ranked():
        table.add_row(
            Text(result.method),
            _number(result.mean_sqnr_db, 1),
            _number(result.min_sqnr_db, 1),
            "-" if result.failure is not None else str(result.clipped_tensors),
            _number(result.output_cosine_mean, 5),
            _number(result.output_cosine_min, 5),
            style="bold" if result.method == study.recommended else None,
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _flag(tensor: TensorStudy) -> str:
    parts = []
    if tensor.near_fp16_overflow:
        parts.append(f"peak {tensor.peak:.4g} is near the float16 limit")
    outliers = tensor.outlier_channels
    if outliers:
        listed = ", ".join(f"{o.channel} (peak {o.peak:.3g})" for o in outliers[:3])
        more = f" and {len(outliers) - 3} more" if len(outliers) > 3 else ""
        parts.append(f"outlier {'channels' if len(outliers) > 1 else 'channel'} {listed}{more}")
    return "; ".join(parts)


def _shown(path: Path) -> Path:
    """The path as seen from the current folder, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


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
