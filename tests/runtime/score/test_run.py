"""A whole run: parts, their index, failed rows, and what is refused."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.bundles import contents
from tests.support.fake_scorer import FakeOpener, Watcher, vector_of
from tests.support.score_runs import TEXTS, results, run
from trt_int8.errors import NoBundleError, ScoreError, SessionError
from trt_int8.runtime.score.data import DataSet
from trt_int8.runtime.score.index import ScoredIndex
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Part
from trt_int8.runtime.score.run import Results, ScoreOptions, run_score, score_here
from trt_int8.runtime.score.work import PartWorker


def test_the_parts_one_after_the_other_are_the_answers_in_the_order_of_the_rows(
    options: ScoreOptions,
) -> None:
    run(options)
    found = np.concatenate([np.load(p) for p in sorted(options.out.glob("part-*.npy"))])
    wanted = np.stack([vector_of(text) for text in TEXTS])
    wanted[[7, 19]] = np.nan
    np.testing.assert_array_equal(found, wanted)


def test_the_index_says_what_is_there_and_what_it_was_made_from(options: ScoreOptions) -> None:
    summary = run(options)
    index = ScoredIndex.model_validate_json((options.out / "scored.json").read_bytes())
    assert summary.index == index
    assert (index.complete, index.rows, index.model) == (True, 23, "m")
    assert [part.rows for part in index.parts] == [5, 5, 5, 5, 3]
    assert [part.faults for part in index.parts] == [0, 1, 0, 1, 0]
    for part in index.parts:
        raw = (options.out / f"part-{part.number:05d}.npy").read_bytes()
        assert (part.sha256, part.size_bytes) == (sha256(raw).hexdigest(), len(raw))
    assert index.data[0].sha256 == sha256(options.data.read_bytes()).hexdigest()
    manifest = (options.data.parent / "bundle" / "manifest.json").read_bytes()
    assert index.terms.bundle_sha256 == sha256(manifest).hexdigest()
    assert index.tally.tokens == sum(len(t.split()) for t in TEXTS if t != "poison") + 2


def test_rows_that_failed_are_listed_with_their_numbers(options: ScoreOptions) -> None:
    assert run(options).faults == 2
    lines = (options.out / "errors.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"row": 7, "error": "poisoned"},
        {"row": 19, "error": "poisoned"},
    ]


def test_without_failures_there_is_no_list_of_them(options: ScoreOptions) -> None:
    options.data.write_text("a\nb\n", encoding="utf-8")
    run(options)
    assert sorted(contents(options.out)) == ["part-00000.npy", "parts.jsonl", "scored.json"]


def test_a_folder_with_other_files_is_refused_and_kept(options: ScoreOptions) -> None:
    options.out.mkdir()
    (options.out / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ScoreError, match=r"holds 'thesis\.txt' and no scored\.json; .*--out"):
        run(replace(options, force=True))
    assert contents(options.out) == {"thesis.txt": b"mine"}


def test_force_takes_away_results_only(options: ScoreOptions) -> None:
    run(options)
    for name in ("notes.txt", "part-of-mine.npy"):
        (options.out / name).write_text("mine", encoding="utf-8")
    run(replace(options, rows_per_part=23, force=True))
    parts = ["part-00000.npy", "part-of-mine.npy", "parts.jsonl"]
    assert sorted(contents(options.out)) == ["errors.jsonl", "notes.txt", *parts, "scored.json"]


def test_an_index_of_another_format_is_refused(options: ScoreOptions) -> None:
    options.out.mkdir()
    (options.out / "scored.json").write_text('{"format": "trt_int8-scored-9"}', encoding="utf-8")
    with pytest.raises(ScoreError, match=r"cannot be read .*wanted one of .*scored-1; .*--force"):
        run(options)


def test_two_processes_do_not_work_on_one_folder(options: ScoreOptions) -> None:
    class Second(Watcher):
        def advance(self, record: Any) -> None:
            with pytest.raises(ScoreError, match=r"another process works on"):
                run(options)
            super().advance(record)

    watch = Second()
    run_score(options, watch, opener=FakeOpener())
    assert len(watch.records) == 5


def test_strict_ends_at_the_first_row_that_fails_and_keeps_what_is_finished(
    options: ScoreOptions,
) -> None:
    with pytest.raises(ScoreError, match=r"row 7 cannot be scored \(poisoned\); .*--strict"):
        run(replace(options, strict=True))
    assert [path.name for path in options.out.glob("part-*")] == ["part-00000.npy"]


def test_data_of_which_no_row_can_be_scored_are_an_error(options: ScoreOptions) -> None:
    options.data.write_text("poison\npoison 2\n", encoding="utf-8")
    with pytest.raises(ScoreError, match=r"none of 2 rows .*row 0: poisoned; .*errors\.jsonl"):
        run(options)
    assert len((options.out / "errors.jsonl").read_text("utf-8").splitlines()) == 2


def test_a_part_that_never_comes_back_is_missed(options: ScoreOptions) -> None:
    def careless(*given: Any) -> Results:
        yield from (result for result in score_here(*given) if result.record.number != 3)

    with pytest.raises(ScoreError, match="part 3 never came back"):
        run_score(options, Watcher(), careless, FakeOpener())
    assert run(options).parts_kept == 4


def test_the_order_in_which_parts_are_finished_does_not_matter(
    options: ScoreOptions, tmp_path: Path
) -> None:
    def backwards(opener: Any, data: DataSet, parts: Iterable[Part], form: Any) -> Results:
        yield from score_here(opener, data, reversed(list(parts)), form)

    run_score(options, Watcher(), backwards, FakeOpener())
    run(replace(options, out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


def test_standard_input_is_scored_as_lines_and_not_kept(
    options: ScoreOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with options.data.open("rb") as stream:
        monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": stream}))
        run(replace(options, data=Path("-"), out=tmp_path / "piped"))
    run(options)
    names = [path.name for path in sorted((tmp_path / "piped").iterdir())]
    assert names == sorted(contents(options.out))
    for path in options.out.glob("part-*"):
        assert (tmp_path / "piped" / path.name).read_bytes() == path.read_bytes()


def test_a_bundle_that_is_not_there_is_refused_before_anything_is_written(
    options: ScoreOptions,
) -> None:
    with pytest.raises(NoBundleError, match=r"nowhere"):
        run(replace(options, scorer=BundleScorer("nowhere")))
    assert not options.out.exists()


def test_a_tokenizer_that_is_no_folder_is_refused(options: ScoreOptions) -> None:
    with pytest.raises(ScoreError, match="'nowhere' is no folder"):
        run(replace(options, scorer=replace(options.scorer, tokenizer="nowhere")))


def test_parts_of_no_rows_are_refused(options: ScoreOptions) -> None:
    with pytest.raises(ScoreError, match="0 rows per part"):
        run(replace(options, rows_per_part=0))


def test_the_model_is_closed_when_the_run_ends_early(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[None] = []
    monkeypatch.setattr(PartWorker, "close", lambda self: closed.append(None))
    with pytest.raises(SessionError, match="the model broke"):
        run(options, fatal=TEXTS[12])
    assert len(closed) == 1
    assert len(list(options.out.glob("part-*"))) == 2


def test_memory_does_not_grow_with_the_number_of_rows(
    options: ScoreOptions, tmp_path: Path
) -> None:
    """40 times the rows, in parts of one size: only the list of parts grows."""

    def peak(rows: int) -> int:
        options.data.write_bytes(b"".join(b"tiny row %d\n" % n for n in range(rows)))
        tracemalloc.start()
        try:
            run(replace(options, rows_per_part=1000, out=tmp_path / f"out{rows}"))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1000), peak(40_000)
    assert small > 100_000  # the measurement sees the rows of a part
    assert large < 1.5 * small


@pytest.mark.parametrize("name", ["input.txt", "errors.jsonl", "parts.jsonl"])
def test_files_of_the_users_with_a_name_of_ours_are_kept(options: ScoreOptions, name: str) -> None:
    """Also if they are the data."""
    options.out.mkdir()
    mine = options.out / name
    mine.write_text('"mine"\n', encoding="utf-8")
    data = mine if name == "input.txt" else options.data
    for force in (False, True):
        with pytest.raises(ScoreError, match=rf"holds '{name}' and no scored\.json"):
            run(replace(options, data=data, force=force))
    assert contents(options.out) == {name: b'"mine"\n'}


def test_standard_input_of_a_process_that_is_refused_leaves_the_others_alone(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second(Watcher):
        def advance(self, record: Any) -> None:
            monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": io.BytesIO(b"other")}))
            with pytest.raises(ScoreError, match=r"another process works on"):
                run(replace(options, data=Path("-")))
            super().advance(record)

    with options.data.open("rb") as stream:
        monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": stream}))
        run(replace(options, data=Path("-")), Second())
    assert not list(options.out.glob(".*"))


def test_what_a_killed_run_kept_of_standard_input_goes_with_the_next_one(
    options: ScoreOptions,
) -> None:
    left = options.out / ".input-abc"
    left.mkdir(parents=True)
    (left / "input.txt").write_text("a", encoding="utf-8")
    run(options)
    assert not left.exists()


def test_strict_counts_the_rows_that_failed_in_an_earlier_run(options: ScoreOptions) -> None:
    run(options)
    with pytest.raises(ScoreError, match=r"row 7 cannot be scored \(poisoned\); .*--strict"):
        run(replace(options, strict=True))


def test_results_do_not_go_into_the_bundle(options: ScoreOptions) -> None:
    bundle = Path(options.scorer.bundle)
    before = contents(bundle)
    with pytest.raises(ScoreError, match="lies in the bundle"):
        run(replace(options, out=bundle / "scored"))
    assert contents(bundle) == before
