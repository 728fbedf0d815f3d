"""`trt-int8 run`: texts through a bundle."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from trt_int8.cli.choices import PrecisionChoice
from trt_int8.cli.places import check_outside
from trt_int8.errors import BundleError, RequestError

if TYPE_CHECKING:
    from trt_int8.runtime.text.items import Item
    from trt_int8.runtime.text.session import TextSession
    from trt_int8.runtime.text.stream import TextResult, TextStatistics

_STANDARD_INPUT = "-"
_SUFFIXES = (".npy", ".jsonl")


def run(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    text: Annotated[
        list[str] | None, typer.Option(help="A text, or a question; may be repeated.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="UTF-8, a text or tab-separated pair (question, context) per line; - for standard"
            " input.",
        ),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="The second text of every pair: where to find the answers.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(help="Batches that run at the same time.")] = 1,
    precision: Annotated[PrecisionChoice, typer.Option(help="Which twin.")] = PrecisionChoice.INT8,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer, instead of the bundle's own.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Labels or answers per text.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write FILE.jsonl, or FILE.npy with the embeddings."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per text, nothing else.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Embed, classify or tag texts, or answer questions, as the model of a bundle does."""
    items = read_items(text, file, context)
    if out is not None:
        _check_out(out, bundle, force=force)
    from trt_int8.runtime.text.session import TextSession

    opened = TextSession.open(
        bundle, device, workers=workers, precision=precision.value, tokenizer=tokenizer
    )
    with opened as session:
        _check_options(session, top_k, out)
        # A bar and lines of JSON on the same terminal would mix.
        shown = file is not None and not (as_json and sys.stdout.isatty())
        results = _with_progress(run_task(session, items, top_k), len(items), shown=shown)
        _deliver(session, items, results, (out, as_json))
        if not as_json:
            _tell_where(session)
        _warn_of_cuts(session.statistics, session.settings.max_tokens)


def read_items(texts: list[str] | None, file: str | None, context: str | None) -> list[Item]:
    """The texts of the command line and of the file, in this order.

    A line is a text, also an empty one, so that line N of the file is result N; a tab makes it a
    pair. Line ends are LF or CRLF.

    Raises:
        RequestError: there is no text, or the file cannot be read, is binary or not UTF-8.
    """
    items: list[Item] = list(texts or ())
    if file is not None:
        lines = _lines(file)
        items += [_pair(line, number) for number, line in enumerate(lines, start=1)]
    if not items:
        raise RequestError(
            "there is no text", wanted="at least one", todo="pass --text TEXT or --file FILE"
        )
    if context is None:
        return items
    if any(isinstance(item, tuple) for item in items):
        raise RequestError(
            "the file has pairs, and --context is given",
            wanted="one second text for each",
            todo="leave one of them out",
        )
    return [(item, context) for item in items if isinstance(item, str)]


def _lines(file: str) -> list[str]:
    name = "standard input" if file == _STANDARD_INPUT else repr(file)
    try:
        data = _standard_input() if file == _STANDARD_INPUT else Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RequestError(
            f"{name} cannot be read ({error.strerror})",
            wanted="a text file",
            todo="check the path",
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not UTF-8 (byte {error.start})",
            wanted="a text file in UTF-8",
            todo="convert it",
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _standard_input() -> bytes:
    if sys.stdin is None:  # closed by the shell: `<&-`
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read()


def _pair(line: str, number: int) -> Item:
    fields = line.split("\t")
    if len(fields) > 2:
        raise RequestError(
            f"line {number} has {len(fields)} tab-separated fields",
            wanted="a text or a pair",
            todo="correct it",
        )
    return (fields[0], fields[1]) if len(fields) == 2 else line


def _check_out(out: Path, bundle: Path, *, force: bool) -> None:
    """Refuse, before any work, a place that must not or cannot be written."""
    if out.suffix not in _SUFFIXES:
        raise BundleError(
            f"--out {str(out)!r} ends in neither of {', '.join(_SUFFIXES)}",
            wanted="FILE.jsonl, or FILE.npy for embeddings",
            todo="rename it",
        )
    if out.is_dir() or not out.parent.is_dir():
        raise BundleError(
            f"--out {str(out)!r} is a folder, or in none that exists",
            wanted="a file in a folder that exists",
            todo="create the folder, or choose another FILE",
        )
    check_outside("--out", out, bundle, force=force)


def _check_options(session: TextSession, top_k: int | None, out: Path | None) -> None:
    vectors = session.task in ("embedding", "features")
    if out is not None and out.suffix == ".npy" and not vectors:
        raise BundleError(
            f"--out {str(out)!r} with a model for {session.task}",
            wanted="FILE.jsonl (.npy is for embeddings)",
            todo="rename it",
        )
    if top_k is not None and session.task not in ("classification", "question-answering"):
        raise RequestError(
            f"--top-k with a model for {session.task}",
            wanted="a model for classification or question-answering",
            todo="leave it out",
        )


def run_task(
    session: TextSession, items: list[Item], top_k: int | None
) -> Iterator[TextResult[Any]]:
    """The results of the model's task, in the order of the texts."""
    from trt_int8.runtime.text.answers import AnswerOptions

    if session.task == "classification":
        return session.iter_classify(items, top_k=top_k)
    if session.task == "token-classification":
        return session.iter_tag(items)  # type: ignore[arg-type]  # pairs are refused by number
    if session.task == "question-answering":
        options = AnswerOptions(top_k=1 if top_k is None else top_k)
        return session.iter_answers(items, options)  # type: ignore[arg-type]  # likewise
    return session.iter_embed(items)


def _tell_where(session: TextSession) -> None:
    from trt_int8.runtime.session import Session

    below = session.session
    if isinstance(below, Session):
        console = Console(stderr=True, highlight=False)
        facts = (f"{below.manifest.model} on {below.device}, {below.backend_name}", *below.notes)
        for fact in facts:
            console.print(Text(f"note: {fact}", style="dim"), soft_wrap=True)


def _with_progress(
    results: Iterator[TextResult[Any]], total: int, *, shown: bool
) -> Iterator[TextResult[Any]]:
    """The same results, with a bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield from results
        return
    from trt_int8.terminal import RichReporter

    with RichReporter(console) as reporter, reporter.task("Reading texts", total) as advance:
        for result in results:
            yield result
            advance(1)


def _deliver(
    session: TextSession,
    items: list[Item],
    results: Iterator[TextResult[Any]],
    where: tuple[Path | None, bool],
) -> None:
    from trt_int8.cli.run_output import json_lines, write_results
    from trt_int8.cli.run_tables import print_results

    out, as_json = where
    if out is not None:
        count = write_results(out, session.task, items, results)
        Console(stderr=as_json, highlight=False).print(
            Text(f"{count} result{'s' if count != 1 else ''}: {out}"), soft_wrap=True
        )
    elif as_json:
        for line in json_lines(session.task, items, results):
            sys.stdout.write(line)
            sys.stdout.flush()
    else:
        console = Console(highlight=False)
        print_results(console, session, items, [result.get() for result in results])


def _warn_of_cuts(statistics: TextStatistics, limit: int | None) -> None:
    if statistics.cut_texts:
        which = "text was" if statistics.cut_texts == 1 else "texts were"
        sys.stderr.write(
            f"note: {statistics.cut_texts} {which} cut to {limit} tokens"
            f" ({statistics.cut_tokens} tokens left out)\n"
        )
