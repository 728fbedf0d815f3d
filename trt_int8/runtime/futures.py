"""A future of the whole made of the futures of its parts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from trt_int8.runtime.backend import Outputs


class Joined(Future[Outputs]):
    """Done when all parts are; cancelling it cancels those parts that have not begun."""

    def __init__(
        self, parts: list[Future[Outputs]], join: Callable[[list[Outputs]], Outputs]
    ) -> None:
        """Wait for `parts`.

        Args:
            parts: at least one.
            join: makes the result from theirs; called in the thread of the last one.
        """
        super().__init__()
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
