"""What a session on a card does, beside a driver and a TensorRT that compute in Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.gpu.card_arrays import on_card
from tests.runtime.gpu.opened import check, fresh, opened, request
from trt_int8.errors import RequestError, SessionError

SIZES = ((1, 17), (3, 33), (4, 64), (2, 65), (1, 299), (3, 33), (1, 17))

every_flavour = pytest.mark.parametrize("flavour", ["8.6", "10", "rtx"])


@every_flavour
@pytest.mark.parametrize("capture", [True, False])
def test_every_request_gets_the_model_s_answer(tmp_path: Path, flavour: str, capture: bool) -> None:
    with opened(tmp_path, fresh(flavour), capture=capture) as backend:
        for seed in range(3):
            for batch, tokens in SIZES:
                feeds = request(batch, tokens, seed)
                check(backend.run(feeds), feeds)


@every_flavour
def test_the_name_tells_product_and_version(tmp_path: Path, flavour: str) -> None:
    with opened(tmp_path, fresh(flavour)) as backend:
        names = {"8.6": "TensorRT 8.6.1", "10": "TensorRT 10.13.3", "rtx": "TensorRT-RTX 1.7.1"}
        assert backend.name == names[flavour]


def test_the_calls_of_a_first_run_are_these_in_this_order(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        start = len(trt.script.calls)
        backend.run(request(3, 33))
        names = trt.script.names(start)
    inference = [
        *("cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync", "execute_async_v3"),
        *("cuMemcpyDtoHAsync", "cuMemcpyDtoHAsync"),
    ]
    assert names == [
        "cuCtxPushCurrent",
        "create_execution_context",
        "set_optimization_profile_async",
        *(["set_input_shape"] * 2),
        *(["set_tensor_address"] * 4),
        *inference,
        "cuStreamSynchronize",
        "cuStreamBeginCapture",
        *inference,
        *("cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"),
        "cuCtxPopCurrent",
    ]


def test_buffers_are_made_once_for_the_largest_profile(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt, workers=2) as backend:
        made = [call[1] for call in trt.script.calls if call[0] == "cuMemAlloc"]
        for batch, tokens in SIZES:
            backend.run(request(batch, tokens))
        # int64 [2, 300], float32 [2, 300], int64 [4]; scratch memory first.
        assert made == [4096, 4800, 4800, 2400, 32] * 2
        assert trt.script.count("cuMemAlloc") == len(made)
        assert trt.script.count("cuMemHostAlloc") == 8


def test_outputs_are_in_memory_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path, fresh()) as backend:
        first = request(3, 33)
        outputs = backend.run(first)
        backend.run(request(3, 33, 1))
        check(outputs, first)
    check(outputs, first)


def test_inputs_are_not_changed(tmp_path: Path) -> None:
    with opened(tmp_path, fresh("8.6")) as backend:
        feeds = request(3, 33)
        copies = {name: array.copy() for name, array in feeds.items()}
        backend.run(feeds)
        for name, array in feeds.items():
            np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**32 + 5])
def test_a_number_that_tensorrt_8_6_cannot_hold_is_refused(tmp_path: Path, value: int) -> None:
    trt = fresh("8.6")
    with opened(tmp_path, trt) as backend:
        feeds = request(1, 17)
        backend.run(feeds)
        captures = trt.script.count("cuStreamBeginCapture")
        wrong = {**feeds, "ids": np.where(np.arange(17) == 11, value, feeds["ids"])}
        with pytest.raises(RequestError, match=rf"input 'ids' has values from .*{value}"):
            backend.run(wrong)
        check(backend.run(feeds), feeds)
        assert trt.script.count("cuStreamBeginCapture") == captures


def test_eight_threads_on_three_workers_get_their_own_answers(tmp_path: Path) -> None:
    with opened(tmp_path, fresh(), workers=3, graphs=3) as backend:

        def client(number: int) -> None:
            for turn in range(12):
                batch, tokens = SIZES[(number + turn) % len(SIZES)]
                feeds = request(batch, tokens, seed=100 * number + turn)
                check(backend.run(feeds), feeds)

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(client, number) for number in range(8)]:
                done.result()


def test_submitted_requests_get_their_own_answers(tmp_path: Path) -> None:
    with opened(tmp_path, fresh(), workers=2) as backend:
        requests = [request(*SIZES[i % len(SIZES)], seed=i) for i in range(20)]
        futures = [backend.submit(feeds) for feeds in requests]
        for feeds, future in zip(requests, futures, strict=True):
            check(future.result(), feeds)


def test_a_second_close_does_nothing(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        backend.run(request(1, 17))
        backend.close()
        count = len(trt.script.calls)
        backend.close()
        assert len(trt.script.calls) == count


def test_a_request_after_close_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, fresh()) as backend:
        backend.close()
        with pytest.raises(SessionError, match="closed"):
            backend.run(request(1, 17))
        with pytest.raises(SessionError, match="closed"):
            backend.submit(request(1, 17))


def test_arrays_on_the_card_and_in_host_memory_may_come_together(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        feeds = request(3, 33)
        given = on_card(trt.cuda, feeds["ids"])
        check(backend.run({**feeds, "ids": given}), feeds)
        other = request(3, 33, 1)
        check(backend.run(other), other)
        del trt.cuda.device[given.interface["data"][0]]
