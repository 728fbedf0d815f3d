"""What runs a model: the border between the session and OpenVINO, ONNX Runtime or TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from numpy.typing import NDArray

# NumPy arrays, or for a GPU anything with `__cuda_array_interface__`.
Feeds = Mapping[str, Any]
Outputs = dict[str, NDArray[Any]]


class Backend(Protocol):
    """A loaded model that several threads may call at once.

    Attributes:
        name: package and version that runs the model, for messages and reports.
        workers: how many requests run at the same time; more wait for their turn.
    """

    name: str
    workers: int

    def run(self, feeds: Feeds) -> Outputs:
        """Run one request in the calling thread.

        Args:
            feeds: every input by name: C-contiguous, of the model's type, sizes within its ranges
                (the session has checked them). They are not changed.

        Returns:
            Every output by name, in memory of its own that later requests leave alone.

        Raises:
            SessionError: it failed, or the backend is closed.
        """

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start one request and return at once, or as soon as a worker is free.

        `feeds` must not change before the future is done. A future that has not begun may be
        cancelled. It ends with what `run` returns or raises.
        """

    def close(self) -> None:
        """Wait for what runs, then free everything; a second call does nothing."""
