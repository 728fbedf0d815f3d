from __future__ import annotations

import gc
import weakref
from concurrent.futures import CancelledError, Future, wait

import numpy as np
import pytest

from trt_int8.runtime.backend import Outputs
from trt_int8.runtime.futures import Joined


def joined(parts: list[Future[Outputs]]) -> Joined:
    return Joined(parts, lambda each: {"x": np.concatenate([one["x"] for one in each])})


def part(number: int) -> Outputs:
    return {"x": np.array([number])}


def test_it_is_done_when_the_last_part_is() -> None:
    parts: list[Future[Outputs]] = [Future(), Future()]
    whole = joined(parts)
    parts[1].set_result(part(2))
    assert not whole.done()
    assert whole.running()
    parts[0].set_result(part(1))
    assert whole.result(0)["x"].tolist() == [1, 2]
    assert not whole.running()


def test_parts_that_are_done_already_count() -> None:
    first: Future[Outputs] = Future()
    first.set_result(part(5))
    assert joined([first]).result(0)["x"].tolist() == [5]


def test_the_error_of_a_part_is_the_error_of_all() -> None:
    parts: list[Future[Outputs]] = [Future(), Future()]
    whole = joined(parts)
    parts[0].set_exception(ValueError("first"))
    parts[1].set_result(part(1))
    with pytest.raises(ValueError, match="first"):
        whole.result(0)


def test_an_error_of_the_joining_reaches_the_caller() -> None:
    one: Future[Outputs] = Future()
    whole = joined([one])
    one.set_result({"y": np.zeros(1)})
    with pytest.raises(KeyError):
        whole.result(0)


def test_cancelling_it_cancels_the_parts() -> None:
    parts: list[Future[Outputs]] = [Future(), Future()]
    whole = joined(parts)
    assert whole.cancel()
    assert all(each.cancelled() for each in parts)
    assert whole.cancelled()
    with pytest.raises(CancelledError):
        whole.result(0)
    assert whole in wait([whole], 0).done


def test_what_has_begun_is_not_cancelled() -> None:
    one: Future[Outputs] = Future()
    one.set_running_or_notify_cancel()
    whole = joined([one])
    assert not whole.cancel()
    one.set_result(part(3))
    assert whole.result(0)["x"].tolist() == [3]


def test_a_part_that_has_begun_runs_out_before_the_whole_counts_as_cancelled() -> None:
    parts: list[Future[Outputs]] = [Future(), Future()]
    parts[0].set_running_or_notify_cancel()
    whole = joined(parts)
    assert whole.cancel()
    assert not whole.done()
    parts[0].set_result(part(3))
    assert whole.cancelled()


def test_what_it_was_made_from_is_let_go_when_it_is_done() -> None:
    class Kept:
        pass

    request = Kept()
    seen = weakref.ref(request)
    one: Future[Outputs] = Future()

    def join(each: list[Outputs], _request: Kept = request) -> Outputs:
        return each[0]

    whole = Joined([one], join)
    del join, request
    one.set_result(part(4))
    del one
    gc.collect()
    assert seen() is None
    assert whole.result(0)["x"].tolist() == [4]


def test_cancelling_again_says_what_became_of_it() -> None:
    parts: list[Future[Outputs]] = [Future(), Future()]
    whole = joined(parts)
    assert whole.cancel()
    assert whole.cancel()
    done: Future[Outputs] = Future()
    other = joined([done])
    done.set_result(part(1))
    assert not other.cancel()
    assert not other.running()
