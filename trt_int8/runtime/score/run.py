"""Score a data set: begin or go on, here or on a cluster, until every part is there."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from trt_int8 import __version__
from trt_int8.engine.bundle import file_sha256, list_files
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import ScoreError
from trt_int8.runtime.score.answers import Format, RowFault
from trt_int8.runtime.score.data import STANDARD_INPUT, DataSet, copy_standard_input, read_data
from trt_int8.runtime.score.index import INPUT_PREFIX, ScoredIndex, Terms, check_folder
from trt_int8.runtime.score.ledger import Ledger
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Columns, Part
from trt_int8.runtime.score.work import Opener, PartRecord, PartResult, PartWorker
from trt_int8.spec.base import Frozen
from trt_int8.spec.manifest import MANIFEST_NAME

DEFAULT_ROWS_PER_PART = 4096
_INPUT_NAME = "input.txt"


@dataclass(frozen=True)
class ScoreOptions:
    """What to score, how, and where to.

    Attributes:
        scorer: opens the bundle.
        data: a file, a folder, or `-` for lines of text on standard input.
        out: folder of the results.
        form: of the parts.
        columns: where the texts are in files with named columns.
        rows_per_part: rows of every part but the last; as many are in memory at once.
        strict: end at the first row that cannot be scored.
        force: begin anew where the folder holds other results.
    """

    scorer: BundleScorer
    data: Path
    out: Path
    form: Format = "jsonl"
    columns: Columns = field(default_factory=Columns)
    rows_per_part: int = DEFAULT_ROWS_PER_PART
    strict: bool = False
    force: bool = False


class Watch(Protocol):
    """Told what happens."""

    def begin(self, rows: int, done: int) -> None:
        """The data are read; of `rows` rows `done` were scored by an earlier run."""

    def advance(self, record: PartRecord) -> None:
        """A part is finished."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Summary(Frozen):
    """What a run did.

    Attributes:
        index: the final `scored.json`.
        parts_kept: parts that an earlier run had finished.
        faults: rows that could not be scored, in all parts.
        backends: what ran the model, over all parts.
    """

    index: ScoredIndex
    parts_kept: int
    faults: int
    backends: tuple[str, ...]


Results = Generator[PartResult, None, None]
# Scores parts and yields the results in any order; closed, it lets everything go.
Executor = Callable[[Opener, DataSet, Iterable[Part], Format], Results]


def score_here(opener: Opener, data: DataSet, parts: Iterable[Part], form: Format) -> Results:
    """Score parts one after the other in this process."""
    worker = PartWorker(opener, data.columns, form)
    try:
        for part in parts:
            yield worker.work(part)
    finally:
        worker.close()


def run_score(
    options: ScoreOptions,
    watch: Watch,
    executor: Executor = score_here,
    opener: Opener | None = None,
) -> Summary:
    """Score a data set.

    Args:
        options: what to score.
        watch: is told about every part.
        executor: scores the parts, here or elsewhere.
        opener: what answers rows; None for the bundle of the options.

    Raises:
        ScoreError: the data cannot be read, the results belong to something else, no row could be
            scored, or one could not and `strict` is on.
        BundleError: the bundle is missing, damaged, or does not fit the device.
        TrtInt8Error: the model cannot be run.
    """
    if options.rows_per_part < 1:
        raise ScoreError(
            f"there are to be {options.rows_per_part} rows per part",
            wanted="1 or more",
            todo="correct --rows-per-part",
        )
    model, terms = _terms(options)
    check_folder(options.out)
    _check_outside(options.out, Path(options.scorer.bundle))
    with _source(options) as path:
        data = read_data(path, options.rows_per_part, options.columns)
        index = ScoredIndex(model=model, terms=terms, data=data.files, rows=data.rows)
        with Ledger(options.out, index, force=options.force) as ledger:
            _drop_inputs(options.out, path)
            return _score(options, watch, data, ledger, (executor, opener))


def _score(
    options: ScoreOptions,
    watch: Watch,
    data: DataSet,
    ledger: Ledger,
    work: tuple[Executor, Opener | None],
) -> Summary:
    """Score the parts that are missing."""
    executor, opener = work
    for name in ledger.damaged:
        watch.note(f"{name} is missing or damaged; it is made again")
    kept = len(ledger.finished)
    if options.strict and any(part.faults for part in ledger.finished.values()):
        raise _first_fault(next(ledger.faults()))
    watch.begin(data.rows, sum(part.rows for part in ledger.finished.values()))
    missing = [part for part in data.parts if part.number not in ledger.finished]
    if missing:
        opens = opener or replace(options.scorer, arrays=data.holds_arrays)
        with closing(executor(opens, data, missing, options.form)) as results:
            for result in results:
                if options.strict and result.faults:
                    raise _first_fault(result.faults[0])
                ledger.add(result)
                watch.advance(result.record)
    if len(ledger.finished) != len(data.parts):
        lost = next(p.number for p in data.parts if p.number not in ledger.finished)
        raise ScoreError(
            f"part {lost} never came back", wanted="every part", todo="run again to go on"
        )
    return _summary(ledger.finish(), kept, ledger)


def _terms(options: ScoreOptions) -> tuple[str, Terms]:
    """The model's name, and what decides the bytes of the results."""
    scorer = options.scorer
    name = load_manifest(Path(scorer.bundle)).model
    mark = file_sha256(Path(scorer.bundle) / MANIFEST_NAME)
    return name, Terms(
        bundle_sha256=mark,
        tokenizer_sha256=_folder_sha256(scorer.tokenizer),
        version=__version__,
        precision=scorer.precision,
        device=scorer.device,
        workers=scorer.workers,
        max_batch_tokens=scorer.max_batch_tokens,
        truncate=scorer.truncate,
        column=options.columns.first,
        pair_column=options.columns.second,
        format=options.form,
        rows_per_part=options.rows_per_part,
    )


def _folder_sha256(folder: str | None) -> str | None:
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ScoreError(
            f"{folder!r} is no folder", wanted="a tokenizer's", todo="check --tokenizer"
        )
    lines = (f"{name} {entry.sha256}\n" for name, entry in list_files(Path(folder)).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_outside(out: Path, bundle: Path) -> None:
    if bundle.resolve() in out.resolve().parents:
        raise ScoreError(
            f"--out {str(out)!r} lies in the bundle",
            wanted="a place outside: the manifest vouches for every file of a bundle",
            todo="choose another --out",
        )


@contextmanager
def _source(options: ScoreOptions) -> Iterator[Path]:
    """Where the data are; standard input is kept while the block runs, beside the results.

    In a folder of its own: another process may be refused the same results, but not before it has
    read its input.
    """
    if str(options.data) != STANDARD_INPUT:
        yield options.data
        return
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.out, prefix=INPUT_PREFIX))
    try:
        yield copy_standard_input(folder / _INPUT_NAME)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drop_inputs(out: Path, kept: Path) -> None:
    """Remove what runs left that were killed while they read standard input."""
    for folder in out.glob(f"{INPUT_PREFIX}*"):
        if folder != kept.parent:
            shutil.rmtree(folder, ignore_errors=True)


def _first_fault(first: RowFault) -> ScoreError:
    return ScoreError(
        f"row {first.row} cannot be scored ({first.error})",
        wanted="every row to be scored, as --strict asks",
        todo="correct that row, or leave out --strict; finished parts were kept",
    )


def _summary(index: ScoredIndex, kept: int, ledger: Ledger) -> Summary:
    faults = sum(part.faults for part in index.parts)
    if faults == index.rows:
        first = next(ledger.faults())
        raise ScoreError(
            f"none of {index.rows} rows could be scored; row {first.row}: {first.error}",
            wanted="rows that the model takes",
            todo="look at errors.jsonl, and check --data, --column and --pair-column",
        )
    backends = tuple(dict.fromkeys(part.backend for part in index.parts))
    return Summary(index=index, parts_kept=kept, faults=faults, backends=backends)
