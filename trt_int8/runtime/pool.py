"""Workers that share one loaded model: so many requests run at once, the rest wait in a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Feeds, Outputs

# Requests that wait per worker before `submit` blocks: enough that no worker ever idles while a
# caller prepares the next one, few enough that a cancelled caller leaves little behind.
_WAITING_PER_WORKER = 4


class WorkerPool:
    """Runs requests on numbered workers; safe to call from any thread.

    A worker is a slot (an inference request, a context and stream): whoever holds its number may
    use it. `run` uses one in the calling thread, which costs no switch of threads; `submit` hands
    the work to the pool's own threads, which are made on first use.
    """

    def __init__(self, work: Callable[[int, Feeds], Outputs], workers: int, name: str) -> None:
        """Nothing is started yet.

        Args:
            work: runs one request on the worker of that number.
            workers: how many there are.
            name: of what they run, for messages and the names of threads.
        """
        self._work, self._name, self._workers = work, name, workers
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(workers):
            self._slots.put(number)
        self._jobs: queue.Queue[tuple[Future[Outputs], Feeds] | None] = queue.Queue(
            workers * _WAITING_PER_WORKER
        )
        self._threads: list[threading.Thread] = []
        # Guards the four below: what is open may be used, and is closed once.
        self._changed = threading.Condition()
        self._closing = False
        self._closed = False
        self._busy = 0

    def run(self, feeds: Feeds) -> Outputs:
        """Run one request in this thread, when a worker is free.

        Raises:
            SessionError: the pool is closed, or what `work` raised.
        """
        self._enter()
        try:
            return self._on_a_slot(feeds)
        finally:
            self._leave()

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start one request in a thread of the pool; blocks while the queue is full.

        Raises:
            SessionError: the pool is closed.
        """
        self._enter()
        try:
            self._start_threads()
            job: tuple[Future[Outputs], Feeds] = (Future(), feeds)
            if threading.current_thread() not in self._threads:
                self._jobs.put(job)
                return job[0]
            try:  # a callback of a future: if this thread waited, nobody might empty the queue
                self._jobs.put_nowait(job)
            except queue.Full:
                self._finish(*job)
            return job[0]
        finally:
            self._leave()

    def close(self) -> bool:
        """Refuse new requests, finish those that were taken, end the threads.

        Returns:
            True for the call that closed it, so that one caller frees what the workers used.
        """
        with self._changed:
            if self._closing:
                self._changed.wait_for(lambda: self._closed)
                return False
            self._closing = True
            self._changed.wait_for(lambda: self._busy == 0)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return True

    def _enter(self) -> None:
        with self._changed:
            if self._closing:
                raise SessionError(
                    f"a request came after {self._name} was closed",
                    wanted="an open session",
                    todo="open it again, or keep it open as long as requests come",
                )
            self._busy += 1

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def _start_threads(self) -> None:
        with self._changed:
            for number in range(len(self._threads), self._workers):
                thread = threading.Thread(
                    target=self._serve, name=f"{self._name}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._finish(*job)
            # Nothing of the last request is to stay alive while this thread waits for the next.
            del job

    def _finish(self, future: Future[Outputs], feeds: Feeds) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            outputs = self._on_a_slot(feeds)
        except BaseException as error:  # noqa: BLE001 - it is the caller's, through the future
            future.set_exception(error)
        else:
            future.set_result(outputs)

    def _on_a_slot(self, feeds: Feeds) -> Outputs:
        number = self._slots.get()
        try:
            return self._work(number, feeds)
        finally:
            self._slots.put(number)
