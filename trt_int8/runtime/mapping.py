"""Runs many requests of mixed length in batches of similar length, and streams the answers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

import numpy as np

from trt_int8.errors import RequestError
from trt_int8.runtime.answers import Answer
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import Buckets, can_pad
from trt_int8.runtime.flow import Flow, FlowOptions
from trt_int8.runtime.packing import DEFAULT_BATCH_TOKENS, PackOptions, batch_sizes
from trt_int8.runtime.padding import Side
from trt_int8.runtime.stacking import Stacker
from trt_int8.runtime.statistics import Statistics
from trt_int8.runtime.tensors import Signature

Order = Literal["input", "completed"]
OnError = Literal["return", "raise"]
DEFAULT_WINDOW = 2048


class Runner(Protocol):
    """What runs the batches: a session, or whatever has the same attributes."""

    @property
    def signature(self) -> Signature:
        """What a request is checked against."""

    @property
    def buckets(self) -> Buckets | None:
        """Lengths to pad to; None if nothing may be padded."""

    @property
    def workers(self) -> int:
        """Batches that run at the same time."""

    @property
    def pad_values(self) -> Mapping[str, int]:
        """Per input what stands where there is no token; 0 if it is not named."""

    @property
    def pad_side(self) -> Side:
        """Where padding goes."""

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start a batch that is padded already; the outputs come back as they are."""


@dataclass(frozen=True)
class MapOptions:
    """How requests are batched and answers come back.

    Attributes:
        max_batch_tokens: most samples times padded tokens of a batch; the smallest batch that the
            model takes runs even if it has more.
        order: `input` hands answers out in the caller's order, `completed` as they come.
        window: requests that are sorted together. A larger one pads less, but beside the batches in
            flight two windows of requests and one of answers may be in memory.
        in_flight: batches given to the runner and not yet taken back; None for one more than it
            has workers, so that none of them waits for the caller.
        on_error: `return` puts the error of a request into its answer, `raise` raises it in its
            turn and ends the run.
        merge: see `PackOptions`; the last bits of an answer may then depend on its neighbours.
        linger_ms: a window is closed early when a worker is idle and its first request has waited
            this long.
    """

    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    order: Order = "input"
    window: int = DEFAULT_WINDOW
    in_flight: int | None = None
    on_error: OnError = "return"
    merge: bool = False
    linger_ms: float = 50.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            RequestError: a number is too small, or a word is unknown.
        """
        in_flight = 1 if self.in_flight is None else self.in_flight
        for name, value in (
            ("max_batch_tokens", self.max_batch_tokens),
            ("window", self.window),
            ("in_flight", in_flight),
        ):
            if not _counts(value):
                raise _wrong(name, value, "a whole number, 1 or more")
        if not self.linger_ms >= 0:
            raise _wrong("linger_ms", self.linger_ms, "0 or more")
        if self.order not in ("input", "completed"):
            raise _wrong("order", self.order, "'input' or 'completed'")
        if self.on_error not in ("return", "raise"):
            raise _wrong("on_error", self.on_error, "'return' or 'raise'")


def _counts(value: object) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _wrong(name: str, value: object, wanted: str) -> RequestError:
    return RequestError(f"{name} is {value!r}", wanted=wanted, todo=f"correct {name}")


def map_requests(
    runner: Runner, requests: Iterable[Feeds], options: MapOptions | None = None
) -> MapRun:
    """Run every request and stream the answers.

    A request is one sample: arrays without the batch axis, [S] for token ids. Requests are taken
    from the iterable by a thread of its own, at most two windows ahead of what runs, and only while
    answers are taken; it may be endless or slow. Batches hold one bucket each, so (without
    `merge`) an answer has the same bits as the request run alone.

    A request that does not fit the model is answered with its error, and the others run. A batch
    that fails runs again one by one, so that only the request at fault fails. What the iterable
    itself raises is raised after the answers of all requests before it.

    Args:
        runner: runs the batches. It is not closed.
        requests: feeds by name; an array must not change before its answer has come.
        options: limits and order.

    Returns:
        An iterator of answers; nothing starts before it is asked for the first one.

    Raises:
        RequestError: `requests` is a single request, or nothing to iterate over.
    """
    if isinstance(requests, Mapping | str) or not isinstance(requests, Iterable):
        raise RequestError(
            f"the requests are a {type(requests).__name__}",
            wanted="an iterable of requests, each a mapping from input names to arrays",
            todo="put a single request into a list, or call run",
        )
    return MapRun(runner, requests, options or MapOptions())


class MapRun(Iterator[Answer]):
    """The answers of a map, one per request.

    One thread at a time may iterate; `cancel` and `statistics` are for any thread. Leave it by its
    end, with `close`, a `with` block, or by dropping it: nothing is started any more, what waits in
    the runner is cancelled.
    """

    def __init__(self, runner: Runner, requests: Iterable[Feeds], options: MapOptions) -> None:
        """See `map_requests`."""
        buckets = runner.buckets if can_pad(runner.signature) else None
        stacker = Stacker(runner.signature, buckets, runner.pad_values, runner.pad_side)
        packing = PackOptions(
            options.max_batch_tokens, batch_sizes(runner.signature), merge=options.merge
        )
        self._flow = Flow(
            runner.submit,
            stacker,
            requests,
            FlowOptions(
                packing=packing,
                buckets=buckets,
                in_order=options.order == "input",
                window=options.window,
                in_flight=options.in_flight or runner.workers + 1,
                linger_s=options.linger_ms / 1000,
            ),
        )
        self._raises = options.on_error == "raise"
        # The flow must not know this object, or its threads would keep a dropped run alive.
        self._dropped = weakref.finalize(self, self._flow.stop)
        self._dropped.atexit = False

    @property
    def statistics(self) -> Statistics:
        """Counts so far; final after the last answer."""
        return self._flow.statistics

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` came before the end."""
        return self._flow.cancelled

    def __next__(self) -> Answer:
        """Wait for the next answer.

        Raises:
            TrtInt8Error: `on_error` is `raise` and the request failed; the run is closed.
        """
        answer = self._flow.next()
        if answer is None:
            raise StopIteration
        if self._raises and answer.error is not None and not answer.cancelled:
            self.close()
            raise answer.error
        return answer

    def cancel(self) -> None:
        """Start nothing more; does not wait.

        The iterator then ends cleanly: batches that run are finished and answered, every other
        request that was taken is answered with a `RequestCancelledError`, also if `on_error` is
        `raise`.
        """
        self._flow.cancel()

    def close(self) -> None:
        """End the run: wait for batches that run, drop their answers and all others.

        A source that is inside its own code is waited for up to a second; its thread ends as soon
        as it comes back. A second call does nothing.
        """
        self._flow.close()

    def __enter__(self) -> MapRun:
        """The run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
