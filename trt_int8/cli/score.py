"""`trt-int8 score`: answer every row of a data set with a bundle."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trt_int8.cli.choices import PrecisionChoice

if TYPE_CHECKING:
    from trt_int8.runtime.score.run import Executor, ScoreOptions


class Form(str, Enum):
    """Formats of the parts."""

    NPY = "npy"
    NPZ = "npz"
    JSONL = "jsonl"
    PARQUET = "parquet"


def score(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    data: Annotated[
        Path,
        typer.Option(
            help="What to score: .txt (a text, or tab-separated pair, per line), .jsonl, .csv,"
            " .tsv, .parquet, .npz with one array per input, a folder of such, or - for lines on"
            " standard input."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results; run again to go on.")],
    form: Annotated[Form, typer.Option("--format", help="Of the files of the results.")] = (
        Form.JSONL
    ),
    column: Annotated[str, typer.Option(help="Column, or JSON name, of the text.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="Column of its partner (a context, a second sentence).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Which twin.")] = PrecisionChoice.INT8,
    workers: Annotated[int, typer.Option(min=1, help="Batches at once per session.")] = 1,
    max_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most samples times padded tokens of a batch.")
    ] = None,
    rows_per_part: Annotated[
        int | None, typer.Option(min=1, help="Rows per file of the results, and in memory.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder, for a bundle without one.")
    ] = None,
    no_truncate: Annotated[
        bool, typer.Option("--no-truncate", help="A text that is too long is an error of its row.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first row that cannot be scored.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="Share the work on a Ray cluster: its address, or `local`.")
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Sessions on the cluster. (default: 1 per GPU, or CPU machine)"),
    ] = None,
    ship: Annotated[
        bool, typer.Option("--ship", help="Send the bundle to the cluster's machines.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Throw away other results in --out.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Score every row of a data set: embeddings, classes, tags, answers, or bare outputs."""
    from trt_int8.cli.score_view import ScoreView, print_summary
    from trt_int8.runtime.score.opener import BundleScorer
    from trt_int8.runtime.score.rows import Columns
    from trt_int8.runtime.score.run import DEFAULT_ROWS_PER_PART, ScoreOptions, run_score

    options = ScoreOptions(
        scorer=BundleScorer(
            bundle=str(bundle),
            device=device,
            workers=workers,
            precision=precision.value,
            tokenizer=None if tokenizer is None else str(tokenizer),
            max_batch_tokens=max_batch_tokens,
            truncate=not no_truncate,
        ),
        data=data,
        out=out,
        form=form.value,
        columns=Columns(column, pair_column),
        rows_per_part=rows_per_part or DEFAULT_ROWS_PER_PART,
        strict=strict,
        force=force,
    )
    executor = _executor(options, ray, actors, ship=ship)
    console = Console(stderr=as_json, highlight=False)
    with ScoreView(console) as view:
        summary = run_score(options, view, executor)
    if as_json:
        sys.stdout.write(summary.to_json())
    else:
        print_summary(console, summary, out, view.seconds)


def _executor(
    options: ScoreOptions, ray: str | None, actors: int | None, *, ship: bool
) -> Executor:
    """What scores the parts.

    Raises:
        ScoreError: options for a cluster without one, or a card chosen by number on one.
    """
    from trt_int8.errors import ScoreError

    if ray is None:
        if actors is not None or ship:
            name = "--ship" if ship else "--actors"
            raise ScoreError(
                f"{name} came without --ray", wanted="both", todo=f"pass --ray, or leave {name} out"
            )
        from trt_int8.runtime.score.run import score_here

        return score_here
    if options.scorer.device.startswith("cuda:"):
        raise ScoreError(
            f"--device {options.scorer.device} came with --ray",
            wanted="cuda: Ray gives each actor a card",
            todo="pass --device cuda, or leave --ray out",
        )
    from trt_int8.runtime.score.cluster import Cluster

    return Cluster(ray, actors, ship)
