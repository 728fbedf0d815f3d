"""Workers that share one loaded model: so many requests run at once, the rest wait in a queue."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.futures import Crew, RequestFuture

# Requests that wait per worker before `submit` blocks: enough that no worker ever idles while a
# caller prepares the next one, few enough that a cancelled caller leaves little behind.
_WAITING_PER_WORKER = 4
# What threads take, one after the other; None ends a thread. A SimpleQueue, because the collector
# may end a pool in the middle of any call, and only its `put` may then be called again.
_Jobs = queue.SimpleQueue[Callable[[], None] | None]


class WorkerPool:
    """Runs requests on numbered workers; safe to call from any thread.

    A worker is a slot (an inference request, a context and stream): whoever holds its number may
    use it. `run` uses one in the calling thread, which costs no switch of threads; `submit` hands
    the work to the pool's own threads, which are made on first use.

    The threads keep nothing alive: a pool that is dropped ends them when its last request is done.
    When the interpreter ends, a pool that is open is closed, because native code that still runs
    then aborts the process.
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
        self._jobs: _Jobs = queue.SimpleQueue()
        self._room = threading.Semaphore(workers * _WAITING_PER_WORKER)
        self._crew = Crew(workers)  # knows the threads, not the pool
        self._process = os.getpid()
        weakref.finalize(self, _end, weakref.ref(self), self._jobs, self._crew.threads)
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
            future = RequestFuture(self._crew)
            # In a callback of a future: if this thread waited, nobody might empty the queue.
            if self._room.acquire(blocking=not self._crew.has_this_thread()):
                self._jobs.put(partial(self._finish, future, feeds))
            else:
                self._finish(future, feeds)
            return future
        finally:
            self._leave()

    def close(self) -> bool:
        """Refuse new requests, finish those that were taken, end the threads.

        In a callback of a future, which runs on a worker, it finishes them itself; if another
        thread is closing the pool already, it does not wait for that one, which waits for it.

        Returns:
            True for the call that closed it, so that one caller frees what the workers used.
        """
        if os.getpid() != self._process:
            return False
        inside = self._crew.has_this_thread()
        with self._changed:
            if self._closing:
                self._changed.wait_for(lambda: self._closed or inside)
                return False
            self._closing = True
            # Whoever waits for room was taken, and this may be the thread that would make it.
            self._room.release(self._busy + 1)
            self._changed.wait_for(lambda: self._busy == 0)
        for _ in range(len(self._crew.threads) + inside):
            self._jobs.put(None)
        if inside:
            _serve(self._jobs, self._room)
        for thread in self._crew.threads:
            if thread is not threading.current_thread():
                thread.join()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return True

    def _enter(self) -> None:
        if os.getpid() != self._process:
            raise SessionError(
                f"a request to {self._name}, which another process opened before it was forked",
                wanted="a session that this process opened: threads do not survive a fork",
                todo="open it in each process, or start processes with the method 'spawn'",
            )
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
            for number in range(len(self._crew.threads), self._workers):
                thread = threading.Thread(
                    target=_serve,
                    args=(self._jobs, self._room),
                    name=f"{self._name}-{number}",
                    daemon=True,
                )
                thread.start()
                self._crew.threads.append(thread)

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


def _serve(jobs: _Jobs, room: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        room.release()
        job()
        # Nothing of the last request is to stay alive while this thread waits for the next.
        del job


def _end(pool: weakref.ref[WorkerPool], jobs: _Jobs, threads: Sequence[threading.Thread]) -> None:
    """The pool is no longer there, or the interpreter ends."""
    alive = pool()
    if alive is not None:
        alive.close()
        return
    for _ in threads:
        jobs.put(None)
