"""What scoring uses of Ray and Ray Data, in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support.fake_ray import FakeRay


class Strategy:
    """As `ray.data.ActorPoolStrategy`."""

    def __init__(self, size: int) -> None:
        self.size = size


class FakeData:
    """Ray Data with actors that take turns; the last part is done first; all is pickled."""

    ActorPoolStrategy = Strategy

    def __init__(self) -> None:
        self.context = SimpleNamespace(enable_progress_bars=True)
        self.DataContext = SimpleNamespace(get_current=lambda: self.context)
        self.bars: list[bool] = []
        self.blocks = 0
        self.pools: list[tuple[int, float, float | None]] = []
        self.actors: list[Any] = []
        self.failure: Exception | None = None

    def from_items(self, items: list[dict[str, Any]], *, override_num_blocks: int) -> Dataset:
        assert all(isinstance(value, bytes) for item in items for value in item.values())
        self.blocks = override_num_blocks
        return Dataset(self, items)


class Dataset:
    """As `ray.data.Dataset`."""

    def __init__(self, data: FakeData, items: list[dict[str, Any]]) -> None:
        self.data, self.items = data, items

    def map_batches(
        self,
        actor: Callable[..., Any],
        *,
        fn_constructor_args: tuple[Any, ...],
        batch_size: int,
        compute: Strategy,
        num_cpus: float,
        num_gpus: float | None,
    ) -> Dataset:
        assert batch_size == 1
        self.data.pools.append((compute.size, num_cpus, num_gpus))
        self.data.actors = [
            actor(*pickle.loads(pickle.dumps(fn_constructor_args))) for _ in range(compute.size)
        ]
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        self.data.bars.append(self.data.context.enable_progress_bars)
        for number, item in enumerate(reversed(self.items)):
            if self.data.failure is not None and number == 1:
                raise self.data.failure
            actor = self.data.actors[number % len(self.data.actors)]
            columns = {name: np.array([value], object) for name, value in item.items()}
            found = actor(columns)
            yield {name: values[0] for name, values in found.items()}


class FakeCluster(FakeRay):
    """Ray with Ray Data and an object store; `load` stands for `optional.load`."""

    def __init__(self, nodes: tuple[int, ...] = (8,), gpus: tuple[int, ...] = ()) -> None:
        super().__init__(nodes)
        self.data = FakeData()
        self.gpus = gpus
        self.store: list[bytes] = []

    def load(self, name: str) -> Any:
        return {"ray": self, "ray.data": self.data, "pandas": None, "pyarrow": None}[name]

    def nodes(self) -> list[dict[str, Any]]:
        found = super().nodes()
        for node, count in zip(found[1:], self.gpus, strict=False):
            node["Resources"]["GPU"] = float(count)
        return found

    def put(self, value: object) -> Any:
        assert isinstance(value, bytes)
        self.store.append(value)
        return len(self.store) - 1

    def get(self, reference: Any) -> Any:
        return self.store[reference]
