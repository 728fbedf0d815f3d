"""`trt-int8 check`: whether a bundle is whole, and where it can run."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trt_int8.cli.choices import PrecisionChoice

if TYPE_CHECKING:
    from trt_int8.engine.bundle_files import Advance
    from trt_int8.runtime.audit import Audit
    from trt_int8.spec.build import Precision
    from trt_int8.spec.bundle_report import BundleReport
    from trt_int8.spec.manifest import Manifest


def check(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder.")],
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu or cuda:N: fail if the bundle cannot run there."),
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="What is to run there.")
    ] = PrecisionChoice.INT8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, nothing else.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Hash every file of a bundle, and say which devices of this machine can run it.

    Nothing is loaded. Exit code 0: whole (and DEVICE can run it), 1: not, with the first reason.
    """
    from trt_int8.runtime.device import parse_device

    if device is not None:
        parse_device(device)
    found = _audit(bundle, precision.value, Console(stderr=True, highlight=False))
    if as_json:
        sys.stdout.write(found.report.to_json())
    else:
        _print(Console(highlight=False), found.report)
    found.raise_first(device)


def _audit(bundle: Path, precision: Precision, console: Console) -> Audit:
    from trt_int8.runtime.audit import Machine, audit
    from trt_int8.terminal import RichReporter

    with RichReporter(console) as reporter, ExitStack() as stack:

        def start(manifest: Manifest) -> Advance:
            total = sum(entry.size_bytes for entry in manifest.files.values())
            title = f"Hashing {len(manifest.files)} files"
            return stack.enter_context(reporter.task(title, total))

        return audit(bundle, precision, Machine(), start)


def _print(console: Console, report: BundleReport) -> None:
    title = f"{report.model}: {report.path}"
    table = Table(title=Text(title), title_justify="left")
    for name in ("file", "bytes", "state"):
        table.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    for file in report.files:
        style = {"whole": "green", "not listed": "dim"}.get(file.state, "bold red")
        size = "-" if file.size_bytes is None else f"{file.size_bytes:,}"
        table.add_row(Text(file.name), size, Text(file.state, style))
    console.print(table)
    _print_devices(console, report)


def _print_devices(console: Console, report: BundleReport) -> None:
    for device in report.devices:
        name = f" ({device.name})" if device.name else ""
        if device.runs is not None:
            line = Text(f"{device.device}{name}: runs {device.runs}", "green")
        else:
            line = Text(f"{device.device}{name}: cannot run it: {device.problem}", "yellow")
        console.print(line, soft_wrap=True)
        for note in device.notes:
            console.print(Text(f"  note: {note}", "dim"), soft_wrap=True)
    if len(report.devices) == 1:
        text = "no card: there is no NVIDIA card, or no driver, or no cuda-python"
        console.print(Text(text, "dim"), soft_wrap=True)
    bad = sum(file.state not in ("whole", "not listed") for file in report.files)
    verdict = "whole" if report.whole else f"not whole: {bad} of {len(report.files)} files"
    console.print(Text(verdict, "bold green" if report.whole else "bold red"))
