"""`trt-int8 build` (`python build_engine.py …` is the same)."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trt_int8.spec.ladder import LADDER
from trt_int8.spec.manifest import Policy
from trt_int8.spec.plugins import PLUGIN_FAMILIES, parse_plugins
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.shapes import DEFAULT_SHAPES, parse_shapes
from trt_int8.spec.targets import parse_targets

_POLICY_NOT_MET = 2


class FlavourChoice(str, Enum):
    """Values of `--flavour`."""

    AUTO = "auto"
    RTX = "rtx"
    TENSORRT = "tensorrt"


def build(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    model: Annotated[
        str,
        typer.Option(help="Hugging Face folder or hub id, package:NAME, or a float or Q/DQ .onnx"),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help=f"What to quantize: {', '.join(LADDER)}, or a TOML file."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Cards or SMs, e.g. t4,a100,sm86. (default: t4,a100)")
    ] = None,
    flavour: Annotated[FlavourChoice, typer.Option(help="Which TensorRT builds.")] = (
        FlavourChoice.AUTO
    ),
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Text file: a sentence, or tab-separated pair, per line; or .npz with one array"
            " per input of the model."
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            help=f"axis=min:opt:max,…; again for each profile. (default: {DEFAULT_SHAPES})"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder. (default: engines/<model>)")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder of an .onnx model.")
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Take out a model's own Q/DQ; calibrate anew.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Engines built at once.")] = min(os.cpu_count() or 1, 4),
    force: Annotated[bool, typer.Option("--force", help="Replace an old bundle.")] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Share that must run INT8 of the matmuls the recipe means.")
    ] = 1.0,
    min_cosine: Annotated[
        float, typer.Option(help="Mean cosine of INT8 against FP16 that must be reached.")
    ] = 0.97,
    cache: Annotated[Path, typer.Option(help="Folder of calibration caches.")] = Path(
        "calib_cache"
    ),
    ranges: Annotated[
        Path | None, typer.Option(help="Ranges to use instead of calibrating: ours or TensorRT's.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Calibrate on a Ray cluster: its address, or `local`.")
    ] = None,
    implicit_int8: Annotated[
        bool, typer.Option("--implicit-int8", help="Let TensorRT <= 10 quantize the float graph.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT timing cache file (flavour tensorrt).")
    ] = None,
    plugins: Annotated[
        str | None,
        typer.Option(
            help=f"Our plugins: auto, off, or some of {','.join(PLUGIN_FAMILIES)}. (default: auto)"
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="TensorRT plugin library; may be repeated.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON, nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Turn a model into a verified INT8 bundle."""
    from trt_int8.pipeline.options import BuildOptions
    from trt_int8.terminal import RichReporter, print_outcome

    # With --json, standard output holds the JSON alone.
    console = Console(stderr=as_json, highlight=False)
    chosen = load_recipe(recipe)
    if plugins is not None:
        chosen = chosen.model_copy(update={"plugins": parse_plugins(plugins)})
    options = BuildOptions(
        model=model,
        out=out,
        recipe=chosen,
        targets=parse_targets(target) if target is not None else None,
        flavour=flavour.value,
        calib=calib,
        shapes=parse_shapes(*shapes) if shapes else None,
        tokenizer=tokenizer,
        requantize=requantize,
        jobs=jobs,
        force=force,
        policy=Policy(min_coverage=min_coverage, min_cosine=min_cosine),
        cache=cache,
        ranges=ranges,
        ray=ray,
        implicit_int8="entropy2" if implicit_int8 else None,
        timing_cache=timing_cache,
        plugin_libraries=tuple(plugin or ()),
    )
    with RichReporter(console) as reporter:
        reporter.note(f"building {model}")
        from trt_int8.pipeline.build import run_build

        outcome = run_build(options, reporter)
    if as_json:
        sys.stdout.write(outcome.manifest.to_json())
    else:
        print_outcome(console, outcome)
    if outcome.manifest.verdict.failures:
        raise typer.Exit(_POLICY_NOT_MET)
