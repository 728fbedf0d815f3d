"""`trt-int8 score`: what goes to which stream, going on, and wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.bundles import make_bundle
from tests.support.fake_scorer import FakeOpener, FakeScorer, vector_of
from trt_int8 import cli
from trt_int8.runtime.score import cluster
from trt_int8.runtime.score.opener import BundleScorer

TEXTS = ["one", "two words", "poison", "four", "five"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", *(str(a) for a in arguments)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[BundleScorer]:
    """Bundles are answered by the fake; what was asked for is kept."""
    found: list[BundleScorer] = []

    def call(self: BundleScorer) -> FakeScorer:
        found.append(self)
        return FakeOpener()()

    monkeypatch.setattr(BundleScorer, "__call__", call)
    return found


@pytest.fixture
def given(tmp_path: Path, opened: list[BundleScorer]) -> list[object]:
    """Bundle, data and output."""
    (tmp_path / "x.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    bundle = make_bundle(tmp_path / "bundle")
    return [bundle, "--data", tmp_path / "x.txt", "--out", tmp_path / "out"]


def test_a_table_says_what_was_done_and_where_failed_rows_are(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *given, "--rows-per-part", 2)
    assert (code, err) == (0, "")
    assert "4 of 5" in out
    assert "3 (0 from earlier runs)" in out
    assert "fake 1" in out
    assert "1 rows could not be scored" in out.replace("\n", "")


def test_with_json_standard_output_holds_the_summary_alone(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *given, "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["faults"], summary["index"]["rows"]) == (1, 5)


def test_every_option_reaches_the_model(
    given: list[object], opened: list[BundleScorer], capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--device cpu --workers 3 --precision fp16 --max-batch-tokens 77 --no-truncate"
    run(capsys, *given, *options.split(), "--tokenizer", Path(str(given[0])) / "sm75")
    assert opened == [
        BundleScorer(
            bundle=str(given[0]),
            device="cpu",
            workers=3,
            precision="fp16",
            tokenizer=str(Path(str(given[0])) / "sm75"),
            max_batch_tokens=77,
            truncate=False,
        )
    ]


def test_the_format_is_chosen_by_name(
    given: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, *given, "--format", "npy")
    found = np.load(tmp_path / "out" / "part-00000.npy")
    np.testing.assert_array_equal(found[1], vector_of("two words"))


def test_columns_are_chosen_by_name(
    given: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("q,c\na,b\n", encoding="utf-8")
    given[2] = tmp_path / "x.csv"
    run(capsys, *given, "--column", "c", "--pair-column", "q", "--format", "npy")
    found = np.load(tmp_path / "out" / "part-00000.npy")
    np.testing.assert_array_equal(found[0], vector_of("b|a"))


def test_the_same_command_again_changes_nothing(
    given: list[object], opened: list[BundleScorer], capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, *given)
    code, out, _ = run(capsys, *given)
    assert code == 0
    assert "1 (1 from earlier runs)" in out
    assert len(opened) == 1


def test_other_settings_are_refused_in_one_line_unless_forced(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, *given)
    code, out, err = run(capsys, *given, "--format", "npy")
    assert (code, out) == (1, "")
    assert err.startswith("error: the results in ")
    assert "made with format 'jsonl', not 'npy'" in err
    assert run(capsys, *given, "--format", "npy", "--force")[0] == 0


def test_strict_ends_with_an_error_and_says_what_was_kept(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *given, "--strict", "--rows-per-part", 2)
    assert code == 1
    assert "1 finished parts were kept" in out
    assert err.startswith("error: row 2 cannot be scored (poisoned)")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--actors", 2], "--actors came without --ray"),
        (["--ship"], "--ship came without --ray"),
        (["--ray", "local", "--device", "cuda:1"], "cuda: Ray gives each actor a card"),
        (["--rows-per-part", 0], "rows-per-part"),
        (["--format", "xml"], "xml"),
        (["--data", "none.txt"], "'none.txt' does not exist"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    given: list[object], capsys: pytest.CaptureFixture[str], extra: list[object], message: str
) -> None:
    code, out, err = run(capsys, *given, *extra)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_ray_is_given_the_address_and_the_number_of_actors(
    given: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def call(self: cluster.Cluster, *work: Any) -> Any:
        from trt_int8.runtime.score.run import score_here

        seen.append(self)
        return score_here(*work)

    monkeypatch.setattr(cluster.Cluster, "__call__", call)
    code, _, _ = run(capsys, *given, "--ray", "auto", "--actors", 3, "--ship")
    assert code == 0
    assert seen == [cluster.Cluster("auto", 3, ship=True)]


INTERRUPTED = """
    import os, signal, sys
    from tests.support.fake_scorer import FakeOpener, FakeScorer
    from trt_int8 import cli
    from trt_int8.runtime.score.opener import BundleScorer

    # A shell starts its background jobs with this signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    BundleScorer.__call__ = lambda self: FakeOpener()()
    score = FakeScorer.score
    def interrupted(self, rows):
        if len(self.calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, rows)
    FakeScorer.score = interrupted
    cli.main(sys.argv[1:])
"""


def test_ctrl_c_keeps_finished_parts(
    given: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), "score"]
    arguments = [*(str(each) for each in given), "--rows-per-part", "1"]
    ended = subprocess.run([*program, *arguments], check=False, capture_output=True)
    assert ended.returncode == 130, ended.stderr.decode()
    assert b"2 finished parts were kept" in ended.stdout
    assert ended.stderr.startswith(b"error: trt-int8 score was interrupted;")
    assert len(list((tmp_path / "out").glob("part-*"))) == 2
    assert "5 (2 from earlier runs)" in run(capsys, *given, "--rows-per-part", 1)[1]
