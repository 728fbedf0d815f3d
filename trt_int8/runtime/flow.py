"""The moving parts of a map: what is taken, packed, runs, and waits to be handed out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from trt_int8.errors import TrtInt8Error
from trt_int8.runtime.answers import Answer, cancelled_error, failed_error, unreadable_error
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import Buckets
from trt_int8.runtime.intake import Intake
from trt_int8.runtime.packing import PackOptions, count, pack
from trt_int8.runtime.stacking import Sample, Stacker
from trt_int8.runtime.statistics import Statistics


@dataclass(frozen=True)
class FlowOptions:
    """Limits; see `MapOptions`."""

    packing: PackOptions
    buckets: Buckets | None
    in_order: bool
    window: int
    in_flight: int
    linger_s: float


@dataclass(frozen=True)
class _Job:
    """A batch to run; `rows` may be more than samples."""

    samples: tuple[Sample, ...]
    length: int
    rows: int


class Flow:
    """Moves requests from the source to the runner and back; driven by the thread that iterates.

    Other threads only put things down: the intake its items, the runner's threads their finished
    futures. Both wake the iterating thread, which does all the rest, so that nothing is started
    while nobody takes answers. The lock guards `_running`, `_done` and the intake's items.
    """

    def __init__(
        self,
        submit: Callable[[Feeds], Future[Outputs]],
        stacker: Stacker,
        requests: Iterable[Feeds],
        options: FlowOptions,
    ) -> None:
        """Nothing starts before `next`."""
        self.statistics = Statistics()
        self.cancelled = False
        self._submit, self._stacker, self._options = submit, stacker, options
        self._changed = threading.Condition()
        self._intake = Intake(requests, self._read, options.window, self._changed)
        self._pending: deque[_Job] = deque()
        self._running: dict[Future[Outputs], _Job] = {}
        self._done: deque[Future[Outputs]] = deque()
        self._ready: deque[Answer] = deque()
        self._held: dict[int, Answer] = {}
        self._next_index = 0
        # Answers in batches that have finished and are about to be unpacked.
        self._unpacking = 0
        self._stopped = False

    def next(self) -> Answer | None:
        """The next answer; None after the last.

        Raises:
            Exception: what the source raised, after all answers.
        """
        self._intake.start()
        while not self._stopped:
            self._advance()
            if self._ready:
                answer = self._ready.popleft()
                self._count(answered=1, failed=int(answer.error is not None))
                return answer
            if not self._wait():
                self._end()
        return None

    def cancel(self) -> None:
        """See `MapRun.cancel`."""
        with self._changed:
            if self._stopped:
                return
            self.cancelled = True
            running = list(self._running)
        self._intake.stop()
        _cancel(running)

    def stop(self) -> None:
        """End the run without waiting: what waits in the runner is cancelled."""
        with self._changed:
            self._stopped = True
            running = list(self._running)
        self._intake.stop()
        _cancel(running)

    def close(self) -> None:
        """See `MapRun.close`."""
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: len(self._done) == len(self._running))
        self._intake.join()
        for store in (self._pending, self._ready, self._held, self._running, self._done):
            store.clear()

    def _read(self, index: int, feeds: Feeds) -> Sample | Answer:
        try:
            return self._stacker.read(index, feeds)
        except TrtInt8Error as error:
            return Answer(index, error=error)
        except Exception as error:  # noqa: BLE001 - a request may be any object; only it fails
            return Answer(index, error=unreadable_error(index, error))

    def _advance(self) -> None:
        """Keep the runner busy, then unpack what has finished."""
        finished = self._collect()
        self._refill()
        for future, job in finished:
            self._unpack(future, job)
        self._unpacking = 0

    def _collect(self) -> list[tuple[Future[Outputs], _Job]]:
        """Finished batches; none while a window of answers waits to be handed out."""
        finished: list[tuple[Future[Outputs], _Job]] = []
        with self._changed:
            while self._done and (not (self._ready or finished) or self._has_room()):
                future = self._done.popleft()
                job = self._running.pop(future)
                finished.append((future, job))
                self._unpacking += len(job.samples)
        return finished

    def _has_room(self) -> bool:
        waiting = len(self._ready) + len(self._held) + self._unpacking
        return waiting < self._options.window

    def _refill(self) -> None:
        """Give the runner as many batches as it may have."""
        if self.cancelled:
            self._drop_waiting()
        while not self.cancelled and len(self._running) < self._options.in_flight:
            if self._pending:
                self._start(self._pending.popleft())
            elif self._window_wait_s() == 0.0:
                self._pack(self._intake.take())
            else:
                return

    def _window_wait_s(self) -> float | None:
        """How long until a new window may begin; None if it takes something else than time."""
        if self._pending or len(self._running) >= self._options.in_flight:
            return None
        if not self._has_room():
            return None
        with self._changed:
            return self._intake.wait_s(self._options.linger_s)

    def _pack(self, items: Sequence[Sample | Answer]) -> None:
        groups: dict[object, list[Sample]] = {}
        for item in items:
            if isinstance(item, Answer):
                self._hand_out(item)
            else:
                groups.setdefault(item.shapes, []).append(item)
        for samples in groups.values():
            tokens = [one.tokens for one in samples]
            batches = pack(tokens, self._options.buckets, self._options.packing)
            self.statistics += count(tokens, batches, self._options.buckets)
            for batch in batches:
                members = tuple(samples[place] for place in batch.members)
                self._pending.append(_Job(members, batch.bucket, batch.rows))

    def _start(self, job: _Job) -> None:
        try:
            future = self._submit(self._stacker.stack(job.samples, job.length, job.rows))
        except Exception as error:  # noqa: BLE001 - as if the batch had failed later
            future = Future()
            future.set_exception(error)
        with self._changed:
            self._running[future] = job
        future.add_done_callback(self._on_done)
        if self.cancelled or self._stopped:
            future.cancel()

    def _on_done(self, future: Future[Outputs]) -> None:
        with self._changed:
            self._done.append(future)
            self._changed.notify_all()

    def _unpack(self, future: Future[Outputs], job: _Job) -> None:
        if future.cancelled() and self.cancelled:
            self._drop(job.samples)
            return
        try:
            outputs = self._stacker.split(future.result(), job.samples, job.rows)
        except Exception as error:  # noqa: BLE001 - whatever it was, these requests failed
            self._fail(job, error)
            return
        for one, found in zip(job.samples, outputs, strict=True):
            self._hand_out(Answer(one.index, outputs=found))

    def _fail(self, job: _Job, error: Exception) -> None:
        """Run the requests of a failed batch one by one; a request alone has failed for good."""
        if len(job.samples) == 1:
            index = job.samples[0].index
            self._hand_out(Answer(index, error=failed_error(index, error)))
            return
        self._count(retried=len(job.samples))
        rows = self._options.packing.sizes.rows(1, job.length)
        self._pending.extendleft(_Job((one,), job.length, rows) for one in reversed(job.samples))

    def _drop_waiting(self) -> None:
        for job in self._pending:
            self._drop(job.samples)
        self._pending.clear()
        for item in self._intake.take():
            if isinstance(item, Answer):
                self._hand_out(item)
            else:
                self._drop([item])

    def _drop(self, samples: Iterable[Sample]) -> None:
        for one in samples:
            self._hand_out(Answer(one.index, error=cancelled_error(one.index)))

    def _hand_out(self, answer: Answer) -> None:
        if not self._options.in_order:
            self._ready.append(answer)
            return
        self._held[answer.index] = answer
        while self._next_index in self._held:
            self._ready.append(self._held.pop(self._next_index))
            self._next_index += 1

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when nothing will come any more."""
        with self._changed:
            while not self._stopped and not self._done:
                if self._pending and len(self._running) < self._options.in_flight:
                    return True
                if self.cancelled and self._intake.items:
                    return True
                wait_s = self._window_wait_s()
                if wait_s == 0.0:
                    return True
                if self._intake.over and not (self._running or self._intake.items):
                    return False
                self._changed.wait(wait_s)
        return True

    def _end(self) -> None:
        self._stopped = True
        self._intake.join()
        if self._intake.error is not None and not self.cancelled:
            raise self._intake.error

    def _count(self, **more: int) -> None:
        changed = {name: getattr(self.statistics, name) + n for name, n in more.items()}
        self.statistics = replace(self.statistics, **changed)


def _cancel(futures: Iterable[Future[Outputs]]) -> None:
    for future in futures:
        future.cancel()
