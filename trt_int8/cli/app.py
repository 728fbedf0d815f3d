"""The command line as a whole: its commands, exit codes and one-line errors."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from trt_int8 import __version__
from trt_int8.cli.build import build
from trt_int8.cli.calib import calib_app
from trt_int8.cli.calibrate import calibrate
from trt_int8.cli.check import check
from trt_int8.cli.export_triton import export_triton
from trt_int8.cli.inspect import inspect
from trt_int8.cli.lint import lint
from trt_int8.cli.run import run
from trt_int8.cli.score import score
from trt_int8.errors import CancelledError, TrtInt8Error, first_line

_INTERRUPTED = CancelledError.exit_code
# As the shell reports a program that SIGPIPE ended (128 + 13): `trt-int8 run … | head`.
_PIPE_CLOSED = 141

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


app.command()(build)
app.command()(calibrate)
app.command()(check)
app.command()(export_triton)
app.command()(inspect)
app.command()(lint)
app.command()(score)
app.command()(run)
app.add_typer(calib_app, name="calib")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 error, 2 policy not met, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_run_piped(arguments))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        code = int(app(arguments, prog_name="trt-int8", standalone_mode=False) or 0)
        # typer turns Ctrl-C into this code without a word.
        return _interrupted(arguments) if code == _INTERRUPTED else code
    except TrtInt8Error as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except typer.Exit as error:
        return error.exit_code
    except MemoryError:
        return _fail(
            "out of memory; wanted more; try --jobs 1 or smaller --shapes.", 1, debug=debug
        )
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(f"{error}; check disk space and permissions.", 1, debug=debug)
    except Exception as error:  # noqa: BLE001 - the user gets one line, --debug the rest
        # typer's usage errors; their class moved between its releases, their method did not.
        if hasattr(error, "format_message"):
            return _fail(f"{error.format_message()} (see --help)", 1, debug=debug)
        text = f"unexpected {type(error).__name__}: {first_line(error)}"
        return _fail(f"{text}; run again with --debug and report it.", 1, debug=debug)


def _run_piped(arguments: list[str]) -> int:
    """Run, and end quietly where nobody reads standard output any more."""
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # Typer and rich make a SystemExit of it.
        broken = [each for each in (error, error.__context__) if isinstance(each, BrokenPipeError)]
        if not broken:
            raise
        # A worker's pipe may break too, which is an error.
        if not _is_unread(sys.stdout.fileno()):
            return _fail(f"{broken[0]}; a process ended early.", 1, debug="--debug" in arguments)
        # Python would complain again when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return code


def _is_unread(stream: int) -> bool:
    """Whether it is a pipe that nobody reads any more, or what rich puts in the place of one."""
    if os.path.samestat(os.fstat(stream), Path(os.devnull).stat()):
        return True
    watched = select.poll()
    watched.register(stream, 0)
    return any(event & select.POLLERR for _, event in watched.poll(0))


def _interrupted(arguments: list[str]) -> int:
    command = next((each for each in arguments if not each.startswith("-")), "")
    what = CancelledError(f"trt-int8 {command}".rstrip())
    return _fail(str(what), _INTERRUPTED, debug=False)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    return code


def entry() -> None:
    """`build_engine.py`: like `trt-int8 build`."""
    main(["build", *sys.argv[1:]])
