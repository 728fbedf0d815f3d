"""`trt-int8 calib`: convert, show and compare calibration caches."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trt_int8.calibrate.tensorrt_cache import from_ranges, is_tensorrt, read_any
from trt_int8.errors import CalibrationError
from trt_int8.files import write_whole
from trt_int8.spec.ranges import RangeTable, TensorRange

_DIFFERENT = 3

calib_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Convert, show and compare calibration caches.",
)


class FileKind(str, Enum):
    """Values of `--to`."""

    JSON = "json"
    TENSORRT = "tensorrt"


class CalibratorChoice(str, Enum):
    """Values of `--calibrator`."""

    ENTROPY2 = "entropy2"
    MINMAX = "minmax"

    @property
    def in_header(self) -> str:
        """Its name in the first line of TensorRT's caches."""
        return "EntropyCalibration2" if self is CalibratorChoice.ENTROPY2 else "MinMaxCalibration"


_Trust = Annotated[
    bool, typer.Option("--trust", help="Take TensorRT scales that look like 127 / amax.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@calib_app.command()
def convert(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Range JSON or TensorRT cache.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="File to write.")],
    to: Annotated[
        FileKind | None, typer.Option(help="What to write. (default: what SRC is not)")
    ] = None,
    tensorrt_version: Annotated[
        str | None,
        typer.Option(help="TensorRT that is to read DST. (default: that of SRC, else 10.14.1)"),
    ] = None,
    calibrator: Annotated[
        CalibratorChoice | None,
        typer.Option(help="Calibrator named in DST. (default: that of SRC, else entropy2)"),
    ] = None,
    model_sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Model of the ranges, kept in JSON.")
    ] = None,
    trust: _Trust = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DST.")] = False,
    _debug: _Debug = False,
) -> None:
    """Turn a TensorRT calibration cache into range JSON, or the reverse."""
    table = read_any(source, trust=trust)
    if to is None:
        to = FileKind.JSON if is_tensorrt(source) else FileKind.TENSORRT
    if to is FileKind.JSON:
        _refuse_unused("json", tensorrt_version=tensorrt_version, calibrator=calibrator)
        text = _of_model(table, model_sha256).to_json()
    else:
        _refuse_unused("tensorrt", model_sha256=model_sha256)
        header = calibrator.in_header if calibrator is not None else None
        text = from_ranges(table, tensorrt_version, header).to_text()
    if destination.exists() and not force:
        raise CalibrationError(
            f"{str(destination)!r} exists", wanted="a new file", todo="add --force to replace it"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_whole(destination, text.encode())
    console = Console(highlight=False)
    console.print(Text(f"wrote {destination}: {len(table.ranges)} ranges"), soft_wrap=True)
    _note_without_range(console, table)


@calib_app.command()
def show(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Range JSON or TensorRT cache.")],
    as_json: _AsJson = False,
    trust: _Trust = False,
    _debug: _Debug = False,
) -> None:
    """List the ranges of a calibration cache."""
    table = read_any(file, trust=trust)
    rows = [(n, r.amax, r.scale, r.peak, _clipped(r)) for n, r in sorted(table.ranges.items())]
    titles = ("tensor", "amax", "scale", "peak", "clipped")
    if as_json:
        about = table.model_dump(exclude={"ranges", "order", "sha256"})
        ranges = [dict(zip(titles, row, strict=True)) for row in rows]
        _write_json({**about, "without_range": table.without_range, "ranges": ranges})
        return
    console = Console(highlight=False)
    versions = [f"{name} {number}" for name, number in sorted(table.versions.items())]
    texts = f"{table.samples} texts" if table.samples else "texts unknown"
    if table.smoothing is not None:
        count = len(table.smoothing.factors)
        what = "input" if count == 1 else "inputs"
        texts += f", {count} {what} of Linears smoothed with alpha {table.smooth}"
    console.print(Text(", ".join([table.method, texts, *versions])), soft_wrap=True)
    cells = [
        (name, *(f"{number:.6g}" for number in numbers), f"{clipped:.1%}" if clipped else "")
        for name, *numbers, clipped in rows
    ]
    _print_table(console, titles, cells)
    _note_without_range(console, table)


@calib_app.command()
def diff(
    *,
    first: Annotated[Path, typer.Argument(metavar="A", help="Range JSON or TensorRT cache.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Range JSON or TensorRT cache.")],
    tolerance: Annotated[
        float, typer.Option(help="Ratios of amax up to 1 + this, either way, count as the same.")
    ] = 0.01,
    as_json: _AsJson = False,
    trust: _Trust = False,
    _debug: _Debug = False,
) -> None:
    """Compare the ranges of two caches. Exit code 0: the same, 3: different."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise CalibrationError(f"--tolerance is {tolerance}", wanted=">= 0", todo="correct it")
    tables = [read_any(file, trust=trust) for file in (first, second)]
    a, b = (table.ranges for table in tables)
    factors = [table.smoothing.factors if table.smoothing else {} for table in tables]
    is_smoothed_alike = factors[0] == factors[1]
    only_a, only_b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    changes = _changes(a, b, tolerance)
    same = len(set(a) & set(b)) - len(changes)
    if as_json:
        keys = ("tensor", "a", "b", "ratio")
        changed = [dict(zip(keys, row, strict=True)) for row in changes]
        found = {"only_in_a": only_a, "only_in_b": only_b, "changed": changed, "same": same}
        _write_json({**found, "smoothed_alike": is_smoothed_alike})
    else:
        console = Console(highlight=False)
        for where, names in ((first, only_a), (second, only_b)):
            for name in names:
                console.print(Text(f"only in {where}: {name}"), soft_wrap=True)
        if changes:
            cells = [(name, *(f"{number:.6g}" for number in numbers)) for name, *numbers in changes]
            _print_table(console, ("tensor", "amax in A", "amax in B", "B / A"), cells)
        console.print(
            f"{same} the same, {len(changes)} changed, {len(only_a + only_b)} in one only"
        )
        if not is_smoothed_alike:
            console.print("the models were smoothed differently: these ranges are of other tensors")
    if only_a or only_b or changes or not is_smoothed_alike:
        raise typer.Exit(_DIFFERENT)


def _changes(
    a: dict[str, TensorRange], b: dict[str, TensorRange], tolerance: float
) -> list[tuple[str, float, float, float]]:
    """(tensor, amax in a, amax in b, their ratio) of those that differ, most different first."""
    # Half as large is as far as twice as large.
    distance = {
        name: abs(math.log(b[name].amax) - math.log(a[name].amax)) for name in a if name in b
    }
    changed = [name for name in distance if distance[name] > math.log1p(tolerance)]
    changed.sort(key=lambda name: (-distance[name], name))
    return [(n, a[n].amax, b[n].amax, b[n].amax / a[n].amax) for n in changed]


def _clipped(found: TensorRange) -> float:
    """The share of the largest |x| that its range cuts off, 0 to 1."""
    return max(0.0, 1 - found.amax / found.peak) if found.peak > 0 else 0.0


def _of_model(table: RangeTable, model_sha256: str | None) -> RangeTable:
    if model_sha256 is None:
        return table
    if not re.fullmatch("[0-9a-f]{64}", model_sha256):
        raise CalibrationError(
            f"--model-sha256 is {model_sha256!r}",
            wanted="64 lower-case hexadecimal digits",
            todo="correct it",
        )
    return table.model_copy(update={"model_sha256": model_sha256})


def _refuse_unused(kind: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise CalibrationError(
                f"--{name.replace('_', '-')} has no place in a file of kind {kind}",
                wanted="only options of what is written",
                todo="leave it out",
            )


def _write_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _note_without_range(console: Console, table: RangeTable) -> None:
    if table.without_range:
        names = ", ".join(table.without_range)
        console.print(Text(f"note: without a range (scale 0): {names}"), soft_wrap=True)


def _print_table(
    console: Console, titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> None:
    """The first column is text, the others are numbers."""
    table = Table()
    for title in titles:
        first = title == titles[0]
        table.add_column(
            title, justify="left" if first else "right", overflow="fold", no_wrap=not first
        )
    for row in rows:
        # Text, for names such as "[relu]" are markup to rich.
        table.add_row(*map(Text, row))
    console.print(table)
