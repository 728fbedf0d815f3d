"""Scoring on a Ray cluster: the files of one process, bit for bit."""

from __future__ import annotations

import logging
import pickle
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import contents, make_bundle
from tests.support.fake_ray import RayError
from tests.support.fake_ray_data import FakeCluster
from tests.support.fake_scorer import FakeOpener, FakeScorer, Watcher
from trt_int8 import optional
from trt_int8.errors import MissingPackageError, ScoreError
from trt_int8.runtime.score import cluster as module
from trt_int8.runtime.score.cluster import Cluster, Pool, size_pool
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Columns
from trt_int8.runtime.score.run import ScoreOptions, run_score
from trt_int8.runtime.score.shipping import Sent, send
from trt_int8.runtime.score.work import PartWorker

TEXTS = [f"text {'long ' * (n % 5)}{n}" for n in range(23)]
TEXTS[7] = "poison"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(optional, "load", made.load)
    return made


@pytest.fixture
def options(tmp_path: Path) -> ScoreOptions:
    (tmp_path / "x.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    bundle = make_bundle(tmp_path / "bundle")
    out, scorer = tmp_path / "out", BundleScorer(str(bundle))
    return ScoreOptions(scorer, tmp_path / "x.txt", out, form="npy", rows_per_part=5)


def run(options: ScoreOptions, cluster: Cluster, **fake: Any) -> None:
    run_score(options, Watcher(), cluster, FakeOpener(**fake))


def parts(out: Path) -> dict[str, bytes]:
    found = contents(out)
    return {name: found[name] for name in found if name.startswith(("part-", "errors"))}


@pytest.fixture
def alone(options: ScoreOptions, tmp_path: Path) -> dict[str, bytes]:
    """What one process without Ray writes."""
    run_score(replace(options, out=tmp_path / "alone"), Watcher(), opener=FakeOpener())
    return parts(tmp_path / "alone")


@pytest.mark.parametrize("actors", [1, 2, 7])
def test_the_files_are_those_of_one_process_however_many_actors(
    fake: FakeCluster, options: ScoreOptions, alone: dict[str, bytes], actors: int
) -> None:
    run(options, Cluster("local", actors))
    assert len(alone) == 6
    assert parts(options.out) == alone
    assert fake.data.pools[0][0] == actors
    assert fake.data.blocks == 5


def test_a_run_goes_on_with_the_parts_that_are_missing(
    fake: FakeCluster, options: ScoreOptions, alone: dict[str, bytes]
) -> None:
    fake.data.failure = RayError("first\nThe node died.\n")
    with pytest.raises(ScoreError, match=r"a Ray worker failed \(The node died\.\); .*--ray out"):
        run(options, Cluster("local"))
    assert list(parts(options.out)) == ["part-00004.npy"]
    fake.data.failure = None
    run(options, Cluster("local"))
    assert fake.data.blocks == 4
    assert parts(options.out) == alone


def test_a_run_that_was_begun_here_goes_on_on_a_cluster(
    fake: FakeCluster, options: ScoreOptions, alone: dict[str, bytes]
) -> None:
    class Stopper(Watcher):
        def advance(self, record: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_score(options, Stopper(), opener=FakeOpener())
    run(options, Cluster("local"))
    assert fake.data.blocks == 4
    assert parts(options.out) == alone


def test_a_cluster_is_left_at_once_when_a_strict_run_ends(
    fake: FakeCluster, options: ScoreOptions
) -> None:
    """While the error is still being looked at."""
    with pytest.raises(ScoreError, match="row 7 cannot be scored"):
        run(replace(options, strict=True), Cluster("local"))
    assert fake.stopped == 1


@pytest.mark.parametrize(("address", "stopped"), [("local", 1), ("auto", 0)])
def test_only_the_cluster_that_was_started_is_stopped(
    fake: FakeCluster, options: ScoreOptions, address: str, stopped: int
) -> None:
    run(options, Cluster(address))
    assert fake.started[0]["address"] == address
    assert fake.stopped == stopped


def test_it_is_stopped_if_scoring_fails(fake: FakeCluster, options: ScoreOptions) -> None:
    with pytest.raises(ScoreError, match="the model broke"):
        run(options, Cluster("local"), fatal=TEXTS[12])
    assert fake.stopped == 1


def test_an_error_of_ours_names_the_node(
    fake: FakeCluster, options: ScoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "n17")
    with pytest.raises(ScoreError, match=r"^on node n17: the model broke; wanted it whole; mend"):
        run(options, Cluster("local"), fatal=TEXTS[12])


def test_data_that_a_node_does_not_have_are_named_with_it(
    fake: FakeCluster, options: ScoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = PartWorker.work

    def elsewhere(self: PartWorker, part: Any) -> Any:
        options.data.unlink(missing_ok=True)
        return work(self, part)

    monkeypatch.setattr(PartWorker, "work", elsewhere)
    with pytest.raises(ScoreError, match=r"^on node .*x\.txt' cannot be read .*share"):
        run(options, Cluster("local"))


def test_an_actor_loads_the_model_once(
    fake: FakeCluster, options: ScoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FakeOpener] = []

    def call(self: FakeOpener) -> FakeScorer:
        opened.append(self)
        return FakeScorer(self)

    monkeypatch.setattr(FakeOpener, "__call__", call)
    run(options, Cluster("local", 2))
    assert len(opened) == 2


def test_bars_and_logs_of_ray_data_are_off_while_it_runs(
    fake: FakeCluster, options: ScoreOptions
) -> None:
    level = logging.getLogger("ray.data").level
    run(options, Cluster("local"))
    assert fake.data.bars == [False]
    assert fake.data.context.enable_progress_bars
    assert logging.getLogger("ray.data").level == level


def test_a_worker_of_another_version_says_what_to_do(
    fake: FakeCluster, options: ScoreOptions
) -> None:
    actor = module.PartActor(module.Job(Sent(FakeOpener()), Columns(), "npy", "9.9.9"))
    result = pickle.loads(actor({"part": [b""]})["result"][0])
    assert isinstance(result, ScoreError)
    assert "wanted 9.9.9, as on the machine that keeps the results" in str(result)


@pytest.mark.parametrize(
    ("nodes", "gpus", "device", "actors", "pool"),
    [
        ((8,), (), "auto", None, Pool(1, 8, 0)),
        ((8, 4, 16), (), "auto", None, Pool(3, 4, 0)),
        ((8, 8), (), "cpu", 4, Pool(4, 4, 0, 2)),
        ((8, 8), (), "cpu", 3, Pool(3, 4, 0, 2)),
        ((2,), (), "cpu", 7, Pool(7, 1, 0, 7)),
        ((0, 8), (), "auto", None, Pool(1, 8, 0)),
        ((8, 8), (4, 2), "auto", None, Pool(6, 1, 1)),
        ((8, 8), (4, 2), "cuda", 3, Pool(3, 1, 1)),
        ((8, 8), (4, 2), "cpu", None, Pool(2, 8, 0)),
    ],
)
def test_an_actor_has_a_gpu_or_a_machine_of_its_own(
    nodes: tuple[int, ...],
    gpus: tuple[int, ...],
    device: str,
    actors: int | None,
    pool: Pool,
) -> None:
    """Dead machines (the fake has one of 64 cores) do not count, nor does a head without CPUs."""
    assert size_pool(FakeCluster(nodes, gpus).nodes(), device, actors) == pool


def test_a_gpu_that_the_cluster_does_not_have_is_refused() -> None:
    with pytest.raises(ScoreError, match="the cluster has no GPU"):
        size_pool(FakeCluster().nodes(), "cuda", None)


def test_a_client_outside_the_cluster_is_refused(fake: FakeCluster, options: ScoreOptions) -> None:
    with pytest.raises(ScoreError, match=r"address of a Ray client; .*--ray auto"):
        run(options, Cluster("ray://head:10001"))
    assert fake.started == []


@pytest.mark.parametrize("package", ["ray", "pandas", "pyarrow"])
def test_without_ray_data_the_extra_is_named(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for needed in ("ray", "pandas", "pyarrow"):
        pytest.importorskip(needed)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"'{package}' is not .*trt-int8\[ray\]'"):
        run(options, Cluster("local"))


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BundleScorer]:
    """Actors open the fake model; which bundle they were given is kept."""
    found: list[BundleScorer] = []

    def call(self: BundleScorer) -> Any:
        found.append(self)
        return FakeOpener()()

    monkeypatch.setattr(BundleScorer, "__call__", call)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    return found


def test_the_bundle_is_read_at_the_same_path_whatever_the_current_folder(
    fake: FakeCluster,
    options: ScoreOptions,
    opening: list[BundleScorer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_score(replace(options, scorer=BundleScorer("bundle")), Watcher(), Cluster("local"))
    assert [one.bundle for one in opening] == [str(tmp_path / "bundle")]
    assert fake.store == []


@pytest.mark.parametrize("harm", ["is another one", "is not there"])
def test_a_node_with_another_bundle_or_none_is_refused(
    fake: FakeCluster,
    options: ScoreOptions,
    opening: list[BundleScorer],
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
) -> None:
    manifest = Path(options.scorer.bundle) / "manifest.json"

    def harmed(*given: Any) -> Any:
        sent = send(*given)
        manifest.write_text("{}") if "another" in harm else manifest.unlink()
        return sent

    monkeypatch.setattr(module, "send", harmed)
    with pytest.raises(ScoreError, match=rf"on node .* the bundle '.*' {harm}; .*--ship"):
        run_score(options, Watcher(), Cluster("local"))
    assert opening == []


def test_a_shipped_bundle_is_unpacked_once_per_machine_and_whole(
    fake: FakeCluster, options: ScoreOptions, opening: list[BundleScorer], tmp_path: Path
) -> None:
    run_score(options, Watcher(), Cluster("local", actors=3, ship=True))
    places = {one.bundle for one in opening}
    assert len(opening) == 3
    assert len(places) == 1
    assert contents(Path(places.pop())) == contents(tmp_path / "bundle")
    assert len(list((tmp_path / "temp").iterdir())) == 1


def test_a_tokenizer_of_the_users_is_shipped_too(
    fake: FakeCluster, options: ScoreOptions, opening: list[BundleScorer], tmp_path: Path
) -> None:
    (tmp_path / "tok").mkdir()
    for number, text in enumerate(("one", "two")):
        (tmp_path / "tok" / "tokenizer.json").write_text(text, encoding="utf-8")
        scorer = replace(options.scorer, tokenizer=str(tmp_path / "tok"))
        changed = replace(options, scorer=scorer, out=tmp_path / f"out{number}")
        run_score(changed, Watcher(), Cluster("local", ship=True))
        given = opening[-1].tokenizer
        assert given is not None
        assert contents(Path(given)) == {"tokenizer.json": text.encode()}
