"""Scoring on a real Ray cluster of this machine: the files of one process, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bundles import contents
from tests.support.fake_scorer import Watcher
from trt_int8.errors import ScoreError
from trt_int8.runtime.score.cluster import Cluster
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.run import ScoreOptions, run_score

# Tests with a real cluster share one process.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

TEXTS = [f"{'fox ' * (n % 9)}quick brown {n}" for n in range(41)]


@pytest.fixture(scope="module")
def options(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreOptions:
    folder = tmp_path_factory.mktemp("real")
    (folder / "x.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    scorer = BundleScorer(str(classifier), device="cpu")
    return ScoreOptions(scorer, folder / "x.txt", folder / "alone", form="npy", rows_per_part=7)


@pytest.fixture(scope="module")
def alone(options: ScoreOptions) -> dict[str, bytes]:
    run_score(options, Watcher())
    return parts(options.out)


@pytest.fixture(scope="module")
def address(
    options: ScoreOptions, alone: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a cluster that our code started; only its end is put off until all tests are through."""
    for needed in ("ray", "pandas", "pyarrow"):
        pytest.importorskip(needed)
    import ray

    out = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "shutdown", lambda: None)
        run_score(replace(options, out=out), Watcher(), Cluster("local"))
    assert parts(out) == alone
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def parts(out: Path) -> dict[str, bytes]:
    found = contents(out)
    return {name: found[name] for name in found if name.startswith("part-")}


def test_two_actors_with_a_shipped_bundle_write_the_same_files(
    options: ScoreOptions, alone: dict[str, bytes], address: str, tmp_path: Path
) -> None:
    watch = Watcher()
    run_score(replace(options, out=tmp_path), watch, Cluster(address, actors=2, ship=True))
    assert len(alone) == 6
    assert parts(tmp_path) == alone
    assert all(record.backend.startswith("OpenVINO") for record in watch.records)


def test_an_error_of_ours_arrives_as_it_is_and_names_the_node(
    options: ScoreOptions, address: str, tmp_path: Path
) -> None:
    lost = replace(options.scorer, device="cuda")
    with pytest.raises(ScoreError, match="the cluster has no GPU"):
        run_score(replace(options, scorer=lost, out=tmp_path / "a"), Watcher(), Cluster(address))
    (tmp_path / "bad.jsonl").write_text("{}", encoding="utf-8")
    changed = replace(options, scorer=replace(options.scorer, tokenizer=str(tmp_path)))
    with pytest.raises(ScoreError, match=r"^on node .*; wanted "):
        run_score(replace(changed, out=tmp_path / "b"), Watcher(), Cluster(address))
