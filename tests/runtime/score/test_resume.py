"""A run goes on where an earlier one ended, or refuses to."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import contents, make_bundle
from tests.support.fake_scorer import Watcher
from tests.support.score_runs import TEXTS, results, run, stop_after
from trt_int8.errors import ScoreError, SessionError
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.run import ScoreOptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SessionError("a", wanted="b", todo="c")])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    options: ScoreOptions, tmp_path: Path, error: BaseException, parts: int
) -> None:
    stop_after(options, parts, error)
    watch = Watcher()
    summary = run(options, watch)
    assert (summary.parts_kept, watch.begun) == (parts, (23, 5 * parts))
    assert [record.number for record in watch.records] == list(range(parts, 5))
    run(replace(options, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import trt_int8.runtime.score.ledger as ledger
    from tests.support.fake_scorer import FakeOpener, Watcher
    from trt_int8.runtime.score.opener import BundleScorer
    from trt_int8.runtime.score.run import ScoreOptions, run_score

    folder, place = Path(sys.argv[1]), sys.argv[2]
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    class Killer(Watcher):
        def advance(self, record):
            if record.number == 2 and place == "between parts":
                die()
            if record.number == 2 and place == "before the line":
                os.fsync = die  # the line of the next part is written, and not yet synced
            if record.number == 2 and place == "before the name":
                Path.replace = die
        def begin(self, *_):
            if place == "at the beginning":
                die()
    if place == "before the index":
        Path.replace = die
    options = ScoreOptions(BundleScorer(str(folder / "bundle")), folder / "x.txt", folder / "out",
                           form="npy", rows_per_part=5)
    run_score(options, Killer(), opener=FakeOpener())
"""


@pytest.mark.parametrize(
    ("place", "whole"),
    [
        ("between parts", 3),
        ("before the line", 4),
        ("before the name", 3),
        ("before the index", 0),
        ("at the beginning", 0),
    ],
)
def test_a_process_that_was_killed_leaves_whole_parts_and_the_next_one_goes_on(
    options: ScoreOptions, tmp_path: Path, place: str, whole: int
) -> None:
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), place]
    ended = subprocess.run(program, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert run(options).parts_kept == whole
    run(replace(options, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


def test_a_last_line_of_the_journal_that_was_cut_off_does_not_count(
    options: ScoreOptions, tmp_path: Path
) -> None:
    """Nor does it spoil the line of the next part, which holds the failed row 7."""
    stop_after(options, 2, KeyboardInterrupt())
    journal = options.out / "parts.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    assert run(options).parts_kept == 1
    run(replace(options, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_damaged_part_is_named_and_made_again(
    options: ScoreOptions, tmp_path: Path, harm: str, complete: bool
) -> None:
    run(options) if complete else stop_after(options, 3, KeyboardInterrupt())
    part = options.out / "part-00001.npy"
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    watch = Watcher()
    run(options, watch)
    assert watch.notes == ["part-00001.npy is missing or damaged; it is made again"]
    assert watch.records[0].number == 1
    assert len(watch.records) == (1 if complete else 3)
    run(replace(options, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


def test_a_whole_result_is_not_made_again(options: ScoreOptions) -> None:
    run(options)
    before, watch = contents(options.out), Watcher()
    assert run(options, watch, fatal=TEXTS[0]).parts_kept == 5
    assert watch.records == []
    assert contents(options.out) == before


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rows_per_part": 6}, "made with rows_per_part 5, not 6"),
        ({"form": "npz"}, "made with format 'npy', not 'npz'"),
        ({"device": "cpu"}, "made with device 'auto', not 'cpu'"),
        ({"precision": "fp16"}, "made with precision 'int8', not 'fp16'"),
        ({"max_batch_tokens": 64}, "made with max_batch_tokens None, not 64"),
        ({"truncate": False}, "made with truncate True, not False"),
        ({"data": "y.txt"}, "made with data file 'x.txt' with sha256 .*, not 'y.txt'"),
        ({"data": "folder"}, "made with 1 data files, not 2"),
        ({"bundle": "other"}, "made with bundle_sha256"),
    ],
)
def test_results_of_something_else_are_not_gone_on_with(
    options: ScoreOptions, tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    (tmp_path / "y.txt").write_text("other\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name in ("x.txt", "z.txt"):
        (tmp_path / "folder" / name).write_bytes(options.data.read_bytes())
    other = make_bundle(tmp_path / "other") / "manifest.json"
    other.write_text(other.read_text("utf-8").replace('"model": "m"', '"model": "n"'), "utf-8")
    stop_after(options, 2, KeyboardInterrupt())
    before = contents(options.out)
    scorer = {k: v for k, v in changes.items() if k in BundleScorer.__dataclass_fields__}
    for name in ("data", "bundle"):
        changes = changes | ({name: tmp_path / changes[name]} if name in changes else {})
    scorer |= {"bundle": str(changes["bundle"])} if "bundle" in changes else {}
    rest = {k: v for k, v in changes.items() if k not in scorer}
    changed = replace(options, scorer=replace(options.scorer, **scorer), **rest)
    with pytest.raises(ScoreError, match=fault):
        run(changed)
    assert contents(options.out) == before
    run(replace(changed, force=True))
    run(replace(changed, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


def test_another_tokenizer_is_another_result(options: ScoreOptions, tmp_path: Path) -> None:
    (tmp_path / "tok").mkdir()
    changed = replace(options, scorer=replace(options.scorer, tokenizer=str(tmp_path / "tok")))
    run(changed)
    (tmp_path / "tok" / "vocab.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ScoreError, match="made with tokenizer_sha256"):
        run(changed)


@pytest.mark.parametrize("line", [b"[]", b"{}", b"7", b"null", b'{"part": 1, "faults": []}', b"\0"])
def test_lines_of_the_journal_that_a_disk_has_spoilt_do_not_count(
    options: ScoreOptions, line: bytes
) -> None:
    stop_after(options, 2, KeyboardInterrupt())
    with (options.out / "parts.jsonl").open("ab") as journal:
        journal.write(line + b"\n")
    assert run(options).parts_kept == 2
