"""`trt-int8 inspect`: what runs in the engines of a bundle, or in one engine, without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from trt_int8.cli.places import check_outside
from trt_int8.errors import BundleError


def inspect(
    *,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Bundle folder, TensorRT-RTX .engine, or TensorRT's engine inspector JSON.",
        ),
    ],
    engine: Annotated[
        str | None, typer.Option(help="Only this engine of a bundle, for example sm75/int8.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with a picture of the layers.")
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="List every kernel, in the order they run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, nothing else.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show what each engine runs: matmuls, fused kernels, fallbacks and why, bytes of weights."""
    from trt_int8.cli.inspect_tables import print_inspection
    from trt_int8.pipeline.inspect import choose, run_inspect

    if html is not None:
        _check_page(html, path, force=force)
    inspection = run_inspect(path)
    chosen = choose(inspection, engine)
    if html is not None:
        from trt_int8.evaluate.coverage_page import write_coverage_page

        html.parent.mkdir(parents=True, exist_ok=True)
        write_coverage_page(html, inspection, chosen)
    if as_json:
        sys.stdout.write(inspection.model_copy(update={"engines": chosen}).to_json())
        return
    console = Console(highlight=False)
    print_inspection(console, inspection, chosen, show_all=show_all)
    if html is not None:
        console.print(Text(f"page: {html}"), soft_wrap=True)


def _check_page(html: Path, path: Path, *, force: bool) -> None:
    """Refuse, before any work, a place that must not be written."""
    if html.is_dir():
        raise BundleError(f"--html {str(html)!r} is a folder", wanted="a file", todo="name one")
    check_outside("--html", html, path, force=force)
