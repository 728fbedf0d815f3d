"""What calibration uses of Ray, in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As in `ray.exceptions`."""


class RayTaskError(RayError):
    """As in `ray.exceptions`: a task raised `cause`."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


class Reference:
    """A task that runs when its result is asked for."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run


class FakeRay:
    """A cluster whose last task is done first; all that is sent is pickled."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, nodes: tuple[int, ...] = (8,)) -> None:
        self.sizes = nodes
        self.started: list[dict[str, Any]] = []
        self.cores_per_task: list[float] = []
        self.shards: list[int] = []
        self.stopped = 0
        self.failure: Exception | None = None

    def init(self, **options: Any) -> None:
        self.started.append(options)

    def shutdown(self) -> None:
        self.stopped += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(self.sizes))}

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 64.0}}
        return [dead, *({"Alive": True, "Resources": {"CPU": float(n)}} for n in self.sizes)]

    def put(self, value: object) -> bytes:
        return pickle.dumps(value)

    def remote(self, num_cpus: float) -> Callable[[Callable[..., object]], object]:
        self.cores_per_task.append(num_cpus)

        def task(function: Callable[..., object]) -> object:
            def start(source: bytes, batches: Any, *rest: Any) -> Reference:
                self.shards.append(len(batches))
                return Reference(lambda: function(pickle.loads(source), batches, *rest))

            return SimpleNamespace(remote=start)

        return task

    def wait(self, references: list[Reference]) -> tuple[list[Reference], list[Reference]]:
        return references[-1:], references[:-1]

    def get(self, reference: Reference) -> Any:
        if self.failure is not None:
            raise self.failure
        try:
            return pickle.loads(pickle.dumps(reference.run()))
        except Exception as error:
            raise RayTaskError(f"Traceback\n  in task\n{error}", error) from error
