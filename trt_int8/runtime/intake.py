"""Takes requests from the caller's iterable, a bounded number ahead of their use."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Request = TypeVar("Request")
Item = TypeVar("Item")

# How long `join` waits for a source that is inside its own code, which nobody can interrupt.
_PATIENCE_S = 1.0


class Intake(Generic[Request, Item]):
    """A thread that takes requests and prepares them, so that a slow source holds nothing up.

    Attributes:
        items: prepared and not yet used; the owner holds `lock` when it reads them.
        error: what the source raised, `SystemExit` too; it comes after all its items.
    """

    def __init__(
        self,
        source: Iterable[Request],
        prepare: Callable[[int, Request], Item],
        limit: int,
        changed: threading.Condition,
    ) -> None:
        """Nothing is taken before `start`.

        Args:
            source: asked for the next request only while fewer than `limit` items wait.
            prepare: called with the request's index; it does not raise.
            limit: most items that wait.
            changed: told when the first item arrives, the limit is reached and the source ends.
        """
        self.items: deque[Item] = deque()
        self.error: BaseException | None = None
        self._source = source
        self._prepare, self._limit, self._changed = prepare, limit, changed
        self._waiting_since = 0.0
        self._stopped = False
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def over(self) -> bool:
        """Whether no item will come any more."""
        return self._stopped or self._ended

    def start(self) -> None:
        """Begin to take requests; only the first call does something."""
        if self._thread is None and not self.over:
            # A daemon: an interpreter that ends must not wait for a source that never answers.
            self._thread = threading.Thread(target=self._take_all, name="map-intake", daemon=True)
            self._thread.start()

    def wait_s(self, linger_s: float) -> float | None:
        """How long to go on waiting for more items; 0 if those here should run now.

        None if there is no item yet.
        """
        if not self.items:
            return None
        if self.over or len(self.items) >= self._limit:
            return 0.0
        left = self._waiting_since + linger_s - time.monotonic()
        return min(max(0.0, left), threading.TIMEOUT_MAX)

    def take(self) -> list[Item]:
        """All items that wait; the source is asked for more."""
        with self._changed:
            taken = list(self.items)
            self.items.clear()
            self._changed.notify_all()
        return taken

    def stop(self) -> None:
        """Take no more requests; one that the source is about to give is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread to end.

        Should the source stay in its own code, the thread ends by itself when it comes back.
        """
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE_S)

    def _take_all(self) -> None:
        source, self._source = self._source, ()
        error: BaseException | None = None
        try:
            for index, request in enumerate(source):
                if not self._put(self._prepare(index, request)):
                    break
        except BaseException as raised:  # noqa: BLE001 - the caller's own, handed to the caller
            error = raised
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Add an item, then wait until there is room for another; False if stopped."""
        with self._changed:
            if self._stopped:
                return False
            self.items.append(item)
            if len(self.items) == 1:
                self._waiting_since = time.monotonic()
            if len(self.items) in (1, self._limit):
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or len(self.items) < self._limit)
            return not self._stopped
