"""Command line: `trt-int8 build …` (`python build_engine.py …` is the same)."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from trt_int8 import __version__
from trt_int8.errors import CancelledError, TrtInt8Error, first_line
from trt_int8.spec.manifest import Policy
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.shapes import DEFAULT_SHAPES, parse_shapes
from trt_int8.spec.targets import parse_targets

_INTERRUPTED = CancelledError.exit_code
_POLICY_NOT_MET = 2


class FlavourChoice(str, Enum):
    """Values of `--flavour`."""

    AUTO = "auto"
    RTX = "rtx"
    TENSORRT = "tensorrt"


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Verified INT8 engines for Transformers on NVIDIA GPUs.",
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


@app.callback()
def _group(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Verified INT8 engines for Transformers on NVIDIA GPUs."""


@app.command()
def build(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    model: Annotated[
        str,
        typer.Option(help="Hugging Face folder or hub id, package:NAME, or a float or Q/DQ .onnx"),
    ],
    recipe: Annotated[Path | None, typer.Option(help="TOML file: what to quantize.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Cards or SMs, e.g. t4,a100,sm86. [default: t4,a100]")
    ] = None,
    flavour: Annotated[FlavourChoice, typer.Option(help="Which TensorRT builds.")] = (
        FlavourChoice.AUTO
    ),
    calib: Annotated[
        Path | None, typer.Option(help="Text file: a sentence, or tab-separated pair, per line.")
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(help=f"axis=min:opt:max,… [default: {DEFAULT_SHAPES}]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder. [default: engines/<model>]")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder of an .onnx model.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Engines built at once.")] = min(os.cpu_count() or 1, 4),
    force: Annotated[bool, typer.Option("--force", help="Replace an old bundle.")] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Share of Linear and attention matmuls that must run INT8.")
    ] = 1.0,
    min_cosine: Annotated[
        float, typer.Option(help="Mean cosine of INT8 against FP16 that must be reached.")
    ] = 0.97,
    cache: Annotated[Path, typer.Option(help="Folder of calibration caches.")] = Path(
        "calib_cache"
    ),
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT timing cache file (flavour tensorrt).")
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
    options = BuildOptions(
        model=model,
        out=out,
        recipe=load_recipe(recipe),
        targets=parse_targets(target) if target is not None else None,
        flavour=flavour.value,
        calib=calib,
        shapes=parse_shapes(shapes) if shapes is not None else None,
        tokenizer=tokenizer,
        jobs=jobs,
        force=force,
        policy=Policy(min_coverage=min_coverage, min_cosine=min_cosine),
        cache=cache,
        timing_cache=timing_cache,
        plugins=tuple(plugin or ()),
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 error, 2 policy not met, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_run(arguments))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        code = int(app(arguments, prog_name="trt-int8", standalone_mode=False) or 0)
        # typer turns Ctrl-C into this code without a word.
        return _fail(str(CancelledError()), code, debug=False) if code == _INTERRUPTED else code
    except TrtInt8Error as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(str(CancelledError()), _INTERRUPTED, debug=False)
    except typer.Exit as error:
        return error.exit_code
    except MemoryError:
        return _fail(
            "out of memory; wanted more; try --jobs 1 or smaller --shapes.", 1, debug=debug
        )
    except OSError as error:
        return _fail(f"{error}; check disk space and permissions.", 1, debug=debug)
    except Exception as error:  # noqa: BLE001 - the user gets one line, --debug the rest
        # typer's usage errors; their class moved between its releases, their method did not.
        if hasattr(error, "format_message"):
            return _fail(f"{error.format_message()} (see --help)", 1, debug=debug)
        text = f"unexpected {type(error).__name__}: {first_line(error)}"
        return _fail(f"{text}; run again with --debug and report it.", 1, debug=debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    return code


def entry() -> None:
    """`build_engine.py`: like `trt-int8 build`."""
    main(["build", *sys.argv[1:]])
