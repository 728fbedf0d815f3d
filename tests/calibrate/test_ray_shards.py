"""Calibration shared out to a Ray cluster: the result of one process, bit for bit."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.collected import EVERYTHING
from tests.support.fake_ray import FakeRay, RayError
from tests.support.ragged import numbered, padded, same_length, tiny_tensors
from tests.support.range_models import halver_onnx, ids
from tests.support.same_statistics import assert_all_same
from tests.support.tiny_transformers import text_model
from trt_int8 import __version__, optional
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.calibrate import ray_shards
from trt_int8.calibrate.collector import NumberedBatches, Statistics
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.ray_shards import collect_shard, collect_with_ray, split_shards
from trt_int8.calibrate.statistics import Needs
from trt_int8.errors import CalibrationError, MissingPackageError, RangeError
from trt_int8.graph.export import export_float
from trt_int8.graph.normalize import normalize
from trt_int8.spec.recipe import Recipe

# The tests with a real cluster share one.
pytestmark = pytest.mark.xdist_group("ray")

HALVER = OnnxTensors(halver_onnx(), ("half", "shifted"))
RAGGED = (*same_length(), *((10 + number, batch) for number, batch in padded()))
BATCHES = numbered([ids([n, 3 * n + 1], [7, 2 - n]) for n in range(11)])


def nothing(_: float) -> None:
    """Progress that nobody watches."""


def alone(source: Any, batches: NumberedBatches) -> Statistics:
    found: Statistics = source.collect(batches, EVERYTHING, lambda: None)
    return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(optional, "load", lambda name: made)
    return made


@dataclass(frozen=True)
class Cluster:
    """A real cluster: how to reach it, and what the call that started it did."""

    address: str
    found: Statistics
    progress: list[float]
    stops: list[None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Started by our code; only its end is put off until all tests are through."""
    ray = pytest.importorskip("ray")
    stops: list[None] = []
    progress: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "shutdown", lambda: stops.append(None))
        found = collect_with_ray("local", tiny_tensors()[0], RAGGED, EVERYTHING, progress.append)
    yield Cluster(ray.get_runtime_context().gcs_address, found, progress, stops)
    ray.shutdown()


@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_hold_each_batch_once_in_order_and_differ_by_one(count: int, shards: int) -> None:
    batches = numbered([ids([n]) for n in range(count)])
    parts = list(split_shards(batches, shards))
    assert [number for part in parts for number, _ in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert len(sizes) == min(shards, count)
    assert not sizes or max(sizes) - min(sizes) <= 1 <= min(sizes)


def test_the_result_is_that_of_one_process_whatever_is_done_first(fake: FakeRay) -> None:
    found = collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    assert len(fake.shards) == 11
    assert_all_same(found, alone(HALVER, BATCHES))


def test_progress_adds_up_to_all_batches(fake: FakeRay) -> None:
    fake.sizes = (torch.get_num_threads(),)
    done: list[float] = []
    collect_with_ray("local", HALVER, BATCHES, EVERYTHING, done.append)
    assert (len(done), sum(done)) == (4, 11)


def test_no_batches_give_no_statistics(fake: FakeRay) -> None:
    assert collect_with_ray("local", HALVER, (), EVERYTHING, nothing) == {}


def test_a_worker_has_as_many_threads_as_this_process(fake: FakeRay) -> None:
    """Sums in another order would give other bits."""
    seen: list[int] = []

    class Watcher:
        def collect(
            self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
        ) -> Statistics:
            seen.append(torch.get_num_threads())
            return {}

    before = torch.get_num_threads()
    collect_shard(Watcher(), BATCHES, EVERYTHING, before + 1, __version__)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_machines_smaller_than_this_one_get_shards_too(fake: FakeRay) -> None:
    """Dead machines do not count."""
    fake.sizes = (1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    finally:
        torch.set_num_threads(before)
    assert fake.cores_per_task == [1]


@pytest.mark.parametrize(("address", "stopped"), [("local", 1), ("auto", 0), ("head:6379", 0)])
def test_only_the_cluster_that_was_started_is_stopped(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, address: str, stopped: int
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    collect_with_ray(address, HALVER, BATCHES, EVERYTHING, nothing)
    assert fake.stopped == stopped


def test_it_is_stopped_if_calibration_fails(fake: FakeRay) -> None:
    fake.failure = RayError("gone")
    with pytest.raises(CalibrationError):
        collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    assert fake.stopped == 1


def test_local_is_a_cluster_of_this_machine_even_where_another_one_runs(fake: FakeRay) -> None:
    """Without an address Ray takes the one of RAY_ADDRESS, or one that runs here already."""
    collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    assert fake.started[0].get("address") == "local"


def test_any_other_address_is_handed_to_ray(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    collect_with_ray("head:6379", HALVER, BATCHES, EVERYTHING, nothing)
    assert fake.started[0]["address"] == "head:6379"


def test_an_error_of_ours_in_a_worker_arrives_as_it_is(fake: FakeRay) -> None:
    model = halver_onnx()
    model.graph.initializer[0].float_data[0] = np.inf
    broken = OnnxTensors(model, ("half",))
    with pytest.raises(RangeError, match=r"^tensor 'half' holds NaN or infinity"):
        collect_with_ray("local", broken, BATCHES, EVERYTHING, nothing)


def test_a_worker_of_another_version_says_what_to_do(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        CalibrationError,
        match=rf"a worker has trt_int8 {__version__}; wanted 9\.9\.9, as on the .* same version",
    ):
        collect_shard(HALVER, BATCHES, EVERYTHING, 1, "9.9.9")


def test_the_version_is_that_of_the_machine_that_calibrates(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_shards, "__version__", "9.9.9")
    found = collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    assert_all_same(found, alone(HALVER, BATCHES))


def test_any_other_error_in_a_worker_is_named_by_its_last_line(fake: FakeRay) -> None:
    with pytest.raises(
        CalibrationError, match=r"a Ray worker failed \(.*no attribute 'collect'\); wanted workers"
    ):
        collect_with_ray("local", object(), BATCHES, EVERYTHING, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "named"), [("first\nThe node died.\n", "The node died."), ("", "RayError")]
)
def test_a_worker_that_is_lost_is_named(fake: FakeRay, text: str, named: str) -> None:
    fake.failure = RayError(text)
    with pytest.raises(CalibrationError, match=rf"a Ray worker failed \({named}\); .*--ray out"):
        collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingPackageError, match=r"'ray' is not .*pip install 'trt-int8\[ray\]'"
    ) as caught:
        collect_with_ray("local", HALVER, BATCHES, EVERYTHING, nothing)
    assert "flavour" not in str(caught.value)


def test_an_address_that_is_none_is_refused() -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        CalibrationError, match=r"no Ray cluster at 'nonsense' \(.*\); .*`ray start --head`"
    ):
        collect_with_ray("nonsense", HALVER, BATCHES, EVERYTHING, nothing)


def test_a_machine_that_does_not_answer_is_refused_before_ray_waits_for_it(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself tries for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CalibrationError, match=rf"no Ray cluster at '{address}' \(.*refused"):
        collect_with_ray(address, HALVER, BATCHES, EVERYTHING, nothing)
    assert fake.started == []


def test_a_real_cluster_finds_what_one_process_finds_in_a_pytorch_model(cluster: Cluster) -> None:
    assert_all_same(cluster.found, alone(tiny_tensors()[0], RAGGED))
    shared = len(cluster.found) - len({id(each) for each in cluster.found.values()})
    assert shared == 2 * 2  # Q, K and V of two layers


def test_a_real_cluster_reports_all_batches_and_is_stopped(cluster: Cluster) -> None:
    assert sum(cluster.progress) == len(RAGGED)
    assert len(cluster.stops) == 1


def test_a_real_cluster_finds_what_one_process_finds_in_an_onnx_graph(cluster: Cluster) -> None:
    graph = normalize(export_float(text_model()))
    tensors = OnnxTensors(graph, plan_onnx(graph, Recipe()).tensors)
    found = collect_with_ray(cluster.address, tensors, RAGGED, EVERYTHING, nothing)
    assert_all_same(found, alone(tensors, RAGGED))


def test_an_error_in_a_worker_of_a_real_cluster_arrives_as_it_is(cluster: Cluster) -> None:
    model = halver_onnx()
    model.graph.initializer[0].float_data[0] = np.inf
    broken = OnnxTensors(model, ("half",))
    with pytest.raises(RangeError, match=r"^tensor 'half' holds NaN or infinity") as caught:
        collect_with_ray(cluster.address, broken, BATCHES, EVERYTHING, nothing)
    assert type(caught.value) is RangeError
    assert caught.value.wanted == "finite values"


def test_any_other_error_in_a_worker_of_a_real_cluster_is_named(cluster: Cluster) -> None:
    with pytest.raises(
        CalibrationError, match=r"a Ray worker failed \(AttributeError: 'int' object"
    ):
        collect_with_ray(cluster.address, 3, BATCHES[:1], EVERYTHING, nothing)  # type: ignore[arg-type]
