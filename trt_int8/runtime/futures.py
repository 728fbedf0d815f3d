"""Answers that are still to come: of one request, and of a whole made of several."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Outputs


class Crew:
    """The threads of a pool, and which of them wait for answers of their own pool.

    Callbacks of futures run on these threads. If all of them wait for requests that are in the
    queue, nobody is left to take one from it, so the last that begins to wait is refused.

    Attributes:
        threads: that take requests from the queue; the pool starts them.
    """

    def __init__(self, size: int) -> None:
        """Nobody waits.

        Args:
            size: how many threads there will be, before the first future is made.
        """
        self.threads: list[threading.Thread] = []
        self._size, self._guard = size, threading.Lock()
        self._waiting: list[RequestFuture] = []

    def has_this_thread(self) -> bool:
        """Whether the caller runs on one of the threads, in a callback."""
        return threading.current_thread() in self.threads

    @contextlib.contextmanager
    def waits(self, answer: RequestFuture, timeout: float | None) -> Iterator[None]:
        """While one of the threads waits for `answer`.

        Raises:
            SessionError: it would wait for ever, or until its time is over.
        """
        with self._guard:
            # Who was seen to wait for a queued request did so all the time before, as nothing goes
            # back into the queue; so all of them waited at once, this one's answer being the last.
            others = sum(one.is_queued() for one in self._waiting)
            if others + 1 >= self._size and answer.is_queued() and (timeout is None or timeout > 0):
                raise SessionError(
                    "a callback waits for another answer of its session, and every worker does so",
                    wanted="a worker that is free to give the answer",
                    todo="call `run` in the callback, or wait in a thread of your own",
                )
            if timeout is None:  # who has one comes back
                self._waiting.append(answer)
        try:
            yield
        finally:
            if timeout is None:
                with self._guard:
                    self._waiting.remove(answer)


class RequestFuture(Future[Outputs]):
    """The future of one request; waiting for it where that would never end is an error."""

    def __init__(self, crew: Crew | None = None) -> None:
        """A request that waits in the queue.

        Args:
            crew: of the pool that has the queue; None for whatever else fills the future.
        """
        super().__init__()
        self.crew = crew

    def is_queued(self) -> bool:
        """Whether no worker has taken the request yet."""
        # In this order: what was not running, and is not done afterwards, had not begun.
        return not self.running() and not self.done()

    def result(self, timeout: float | None = None) -> Outputs:
        """See `concurrent.futures.Future.result`.

        Raises:
            SessionError: what the request ended with; or this is a callback, and its session has no
                other worker that could run the request.
        """
        if self.crew is None or not self.crew.has_this_thread():
            return super().result(timeout)
        with self.crew.waits(self, timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`, and `result`."""
        if self.crew is None or not self.crew.has_this_thread():
            return super().exception(timeout)
        with self.crew.waits(self, timeout):
            return super().exception(timeout)


class Joined(RequestFuture):
    """Done when all parts are; cancelling it cancels those parts that have not begun."""

    def __init__(
        self, parts: list[Future[Outputs]], join: Callable[[list[Outputs]], Outputs]
    ) -> None:
        """Wait for `parts`.

        Args:
            parts: at least one.
            join: makes the result from theirs; called in the thread of the last one.
        """
        super().__init__(next((one.crew for one in parts if isinstance(one, RequestFuture)), None))
        self._parts, self._join = parts, join
        self._left, self._guard = len(parts), threading.Lock()
        for part in parts:
            part.add_done_callback(self._one_is_done)

    def cancel(self) -> bool:
        """Cancel what has not begun; False if nothing could be cancelled.

        If a part runs, `done` and `cancelled` become true when that has ended.
        """
        if self.done():
            return self.cancelled()
        cancelled = [part.cancel() for part in self._parts]
        return any(cancelled)

    def running(self) -> bool:
        """Whether a part runs, or some are done and others wait."""
        return not self.done() and any(part.running() or part.done() for part in self._parts)

    def is_queued(self) -> bool:
        """Whether a part waits in the queue."""
        return any(isinstance(part, RequestFuture) and part.is_queued() for part in self._parts)

    def _one_is_done(self, _part: Future[Outputs]) -> None:
        with self._guard:
            self._left -= 1
            if self._left:
                return
        self._settle()
        # Whoever keeps the future keeps its result, not the requests and answers it was made from.
        self._parts, self._join = [], _nothing

    def _settle(self) -> None:
        if any(part.cancelled() for part in self._parts):
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        try:
            result = self._join([part.result() for part in self._parts])
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self.set_exception(error)
        else:
            self.set_result(result)


def _nothing(_outputs: list[Outputs]) -> Outputs:
    return {}
