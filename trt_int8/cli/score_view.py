"""What `trt-int8 score` shows: a bar with rates while it runs, and a table at the end."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trt_int8.runtime.score.answers import Tally
from trt_int8.runtime.score.run import Summary
from trt_int8.runtime.score.work import PartRecord


class ScoreView:
    """A bar on a terminal; elsewhere only notes."""

    def __init__(self, console: Console) -> None:
        """Show everything on `console`."""
        self._console = console
        self._progress = Progress(
            TextColumn("Scoring"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)
        self._rows, self._faults, self._tally = 0, 0, Tally()
        self._start = time.perf_counter()
        self._parts = 0

    def __enter__(self) -> ScoreView:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; after Ctrl-C or an error say what is kept."""
        self._progress.stop()
        if kind is not None and self._parts:
            self.note(f"{self._parts} finished parts were kept; run the same command to go on")

    @property
    def seconds(self) -> float:
        """Since the model began to load."""
        return time.perf_counter() - self._start

    def begin(self, rows: int, done: int) -> None:
        """Set the bar."""
        self._start = time.perf_counter()
        self._progress.update(self._task, total=rows, completed=done)
        if done:
            self.note(f"going on after {done} of {rows} rows")

    def advance(self, record: PartRecord) -> None:
        """One part more."""
        self._rows += record.rows
        self._faults += record.faults
        self._tally += record.tally
        self._parts += 1
        text = rates(self._rows, self._tally, self.seconds)
        if self._faults:
            text += f", {self._faults} failed"
        self._progress.update(self._task, advance=record.rows, description=text)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(f"note: {text}", style="dim"), soft_wrap=True)


def rates(rows: int, tally: Tally, seconds: float) -> str:
    """Rows and tokens per second, and the share of padding."""
    return (
        f"{rows / seconds:,.0f} rows/s, {tally.tokens / seconds:,.0f} tokens/s,"
        f" {tally.padding_share:.0%} padding"
    )


def print_summary(console: Console, summary: Summary, out: Path, seconds: float) -> None:
    """The table at the end.

    Args:
        console: where to print.
        summary: what was done.
        out: folder of the results.
        seconds: of this run, without reading the data.
    """
    index = summary.index
    table = Table(title=Text(f"{index.model}: {index.rows} rows"), title_justify="left")
    table.add_column("scored")
    table.add_column("", justify="right")
    table.add_row("rows", f"{index.rows - summary.faults} of {index.rows}")
    table.add_row("parts", f"{len(index.parts)} ({summary.parts_kept} from earlier runs)")
    table.add_row("tokens", f"{index.tally.tokens:,}")
    table.add_row("padding", f"{index.tally.padding_share:.1%}")
    if not summary.parts_kept:
        table.add_row("rows/s", f"{index.rows / seconds:,.1f}")
        table.add_row("tokens/s", f"{index.tally.tokens / seconds:,.0f}")
    table.add_row("run by", ", ".join(summary.backends))
    console.print(table)
    if summary.faults:
        text = f"{summary.faults} rows could not be scored: {out / 'errors.jsonl'}"
        console.print(Text(text, "yellow"), soft_wrap=True)
    if len(summary.backends) > 1:
        text = "warning: not all parts were made by the same backend; last bits may differ"
        console.print(Text(text, "yellow"), soft_wrap=True)
    console.print(Text(f"results: {out / 'scored.json'}"), soft_wrap=True)
