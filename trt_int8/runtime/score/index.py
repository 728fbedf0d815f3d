"""`scored.json`: what a folder of results holds, and whether a run may go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from trt_int8.errors import ScoreError
from trt_int8.runtime.score.answers import Format, Tally
from trt_int8.runtime.score.rows import DataFile
from trt_int8.runtime.score.work import PartRecord
from trt_int8.spec.base import Frozen

INDEX_NAME = "scored.json"
JOURNAL_NAME = "parts.jsonl"
ERRORS_NAME = "errors.jsonl"
SCORED_FORMAT: Final = "trt_int8-scored-1"
# A folder in the folder of the results: where a run keeps what came on standard input.
INPUT_PREFIX = ".input-"


class Terms(Frozen):
    """What decides the bytes of the results; a run goes on only where all of it is the same.

    Attributes:
        bundle_sha256: of the bundle's manifest, which holds the sha256 of every other file.
        tokenizer_sha256: of the files of a tokenizer used instead of the bundle's own.
        version: of this package.
        precision: of the model that runs.
        device: as asked for.
        workers: requests that a session runs at once; they share its threads.
        max_batch_tokens: of a batch; None for the session's own choice.
        truncate: whether texts that are too long are cut; else they are errors.
        column: of the text.
        pair_column: of its partner.
        format: of the parts.
        rows_per_part: rows of every part but the last.
    """

    bundle_sha256: str
    tokenizer_sha256: str | None = None
    version: str
    precision: str = "int8"
    device: str = "auto"
    workers: int = 1
    max_batch_tokens: int | None = None
    truncate: bool = True
    column: str = "text"
    pair_column: str | None = None
    format: Format = "jsonl"
    rows_per_part: int


class ScoredIndex(Frozen):
    """`scored.json`: what the folder holds and what it was made from.

    Attributes:
        model: the bundle's name of it.
        terms: see `Terms`.
        data: the input files, in order.
        rows: of all of them.
        complete: whether every part is there; until then the parts are in `parts.jsonl`, one per
            line as they were finished.
        parts: in order.
        tally: what was computed for all of them.
    """

    format: Literal["trt_int8-scored-1"] = SCORED_FORMAT
    model: str
    terms: Terms
    data: tuple[DataFile, ...]
    rows: int
    complete: bool = False
    parts: tuple[PartRecord, ...] = ()
    tally: Tally = Tally()


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder with files that are not results.

    Raises:
        ScoreError: as said.
    """
    if folder.is_dir():
        others = [p.name for p in folder.iterdir() if not _is_begun(p)]
        if not others or (folder / INDEX_NAME).is_file():
            return
        came = f"{str(folder)!r} holds {sorted(others)[0]!r} and no {INDEX_NAME}"
    elif folder.exists():
        came = f"{str(folder)!r} is a file"
    else:
        return
    raise ScoreError(
        came,
        wanted="a new or empty folder, or one with earlier results",
        todo="choose another --out (nothing was deleted)",
    )


def _is_begun(path: Path) -> bool:
    """Whether a run that was killed before it wrote `scored.json` may have left it.

    A name alone is not enough: `errors.jsonl` without an index is somebody else's.
    """
    if path.name == JOURNAL_NAME:
        return path.is_file() and path.stat().st_size == 0
    return is_partial(path) or (path.name.startswith(INPUT_PREFIX) and path.is_dir())


def is_partial(path: Path) -> bool:
    """Whether it is a file that a killed run was writing."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def read_index(folder: Path) -> ScoredIndex | None:
    """Read `scored.json`; None if there is none.

    Raises:
        ScoreError: it is of another format, or the folder holds files that are not results.
    """
    check_folder(folder)
    try:
        return ScoredIndex.model_validate_json((folder / INDEX_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ScoreError(
            f"{str(folder / INDEX_NAME)!r} cannot be read ({error.error_count()} faults)",
            wanted=f"one of the format {SCORED_FORMAT}",
            todo="choose another --out, or pass --force to throw these results away",
        ) from error


def compare(old: ScoredIndex, new: ScoredIndex, folder: Path) -> None:
    """Refuse to go on with results of something else.

    Raises:
        ScoreError: naming the first difference.
    """
    differences = [
        f"{name} {getattr(old.terms, name)!r}, not {getattr(new.terms, name)!r}"
        for name in Terms.model_fields
        if getattr(old.terms, name) != getattr(new.terms, name)
    ]
    if len(old.data) != len(new.data):
        differences.append(f"{len(old.data)} data files, not {len(new.data)}")
    differences += [
        f"data file {was.name!r} with sha256 {was.sha256[:12]}…, not {now.name!r} with"
        f" {now.sha256[:12]}…"
        for was, now in zip(old.data, new.data, strict=False)
        if was != now
    ]
    if differences:
        raise ScoreError(
            f"the results in {str(folder)!r} were made with {differences[0]}",
            wanted="the same model, data and settings to go on with them",
            todo="choose another --out, or pass --force to throw these results away",
        )
