"""`trt-int8 calibrate`: compare calibration methods on a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trt_int8.spec.ladder import LADDER
from trt_int8.spec.methods import METHODS, parse_methods
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.shapes import DEFAULT_SHAPES, parse_shapes

DEFAULT_METHODS = "output,sqnr,max,percentile:99.999,percentile:99.99,entropy,mse"


def calibrate(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    model: Annotated[
        str, typer.Argument(help="Hugging Face folder or hub id, package:NAME, or a float .onnx")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--calib",
            help="Text file: a sentence, or tab-separated pair, per line; or .npz with one array"
            " per input of the model.",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help=f"Comma-separated; known: {', '.join(METHODS)}.")
    ] = DEFAULT_METHODS,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. (default: calibration/<model>)")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help=f"What to quantize: {', '.join(LADDER)}, or a TOML file."),
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(help=f"axis=min:opt:max,… (default: {DEFAULT_SHAPES})")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder of an .onnx model.")
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Take out a model's own Q/DQ; calibrate anew.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="Share the work on a Ray cluster: its address, or `local`.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace old results.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the study as JSON, nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Compare calibration methods: table, page with pictures, and a file of ranges for each."""
    from trt_int8.pipeline.options import CalibrateOptions
    from trt_int8.terminal import RichReporter, print_study

    console = Console(stderr=as_json, highlight=False)
    options = CalibrateOptions(
        model=model,
        recipe=load_recipe(recipe),
        calib=data,
        shapes=parse_shapes(shapes) if shapes is not None else None,
        tokenizer=tokenizer,
        requantize=requantize,
        ray=ray,
        methods=parse_methods(methods),
        out=out,
        force=force,
    )
    with RichReporter(console) as reporter:
        reporter.note(f"calibrating {model}")
        from trt_int8.pipeline.calibrate import run_calibrate

        outcome = run_calibrate(options, reporter)
    if as_json:
        sys.stdout.write(outcome.study.to_json())
    else:
        print_study(console, outcome.study, outcome.folder)
