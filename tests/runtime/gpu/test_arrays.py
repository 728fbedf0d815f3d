"""Arrays on the card: nothing passes through the host, and who writes them is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.card_arrays import OnCard, on_card, on_card_later
from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_machine import LEGACY, PER_THREAD, Stream
from tests.runtime.gpu.opened import check, fresh, open_backend, opened, request
from trt_int8.errors import RequestError
from trt_int8.runtime.gpu.arrays import device_array


def forget(cuda: FakeCuda, *arrays: OnCard) -> None:
    for array in arrays:
        del cuda.device[array.interface["data"][0]]


@pytest.mark.parametrize("flavour", ["10", "rtx"])
@pytest.mark.parametrize("version", [2, 3])
def test_arrays_on_the_card_are_read_there(tmp_path: Path, flavour: str, version: int) -> None:
    trt = fresh(flavour)
    with opened(tmp_path, trt) as backend:
        feeds = request(3, 33)
        given = {name: on_card(trt.cuda, a, version=version) for name, a in feeds.items()}
        for _ in range(3):
            check(backend.run(given), feeds)
        assert trt.script.count("cuMemcpyHtoDAsync") == 0
        forget(trt.cuda, *given.values())


def test_another_address_needs_no_other_graph(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        for seed in range(4):
            feeds = request(3, 33, seed)
            given = {name: on_card(trt.cuda, array) for name, array in feeds.items()}
            check(backend.run(given), feeds)
            forget(trt.cuda, *given.values())
        assert trt.script.count("cuStreamBeginCapture") == 1


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_that_is_still_being_written_is_waited_for(tmp_path: Path, version: int) -> None:
    trt = fresh()
    trt.cuda.streams[55] = Stream(blocking=False)
    stream = LEGACY if version == 2 else 55
    with opened(tmp_path, trt) as backend:
        for seed in range(3):
            feeds = request(3, 33, seed)
            given = {
                name: on_card_later(trt.cuda, array, stream, version=version)
                for name, array in feeds.items()
            }
            check(backend.run(given), feeds)
            forget(trt.cuda, *given.values())
        assert trt.script.count("cuEventCreate") == 1
        del trt.cuda.streams[55]


@pytest.mark.parametrize("way", ["run", "submit"])
def test_what_the_caller_s_own_default_stream_writes_is_waited_for(
    tmp_path: Path, way: str
) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        for seed in range(3):
            feeds = request(3, 33, seed)
            given = {
                name: on_card_later(trt.cuda, array, PER_THREAD, version=3)
                for name, array in feeds.items()
            }
            check(backend.run(given) if way == "run" else backend.submit(given).result(), feeds)
            forget(trt.cuda, *given.values())


def test_version_3_without_a_stream_is_not_waited_for(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        feeds = request(3, 33)
        given = {n: on_card(trt.cuda, a, version=3, stream=None) for n, a in feeds.items()}
        check(backend.run(given), feeds)
        assert trt.script.count("cuEventRecord") == 0
        forget(trt.cuda, *given.values())


def test_an_array_on_another_card_is_refused_and_the_graph_stays(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        feeds = request(3, 33)
        here = {name: on_card(trt.cuda, array) for name, array in feeds.items()}
        there = on_card(trt.cuda, feeds["mask"], ordinal=1)
        backend.run(here)
        with pytest.raises(RequestError, match=r"is int64 on cuda:1; wanted int64 on cuda:0"):
            backend.run({**here, "mask": there})
        check(backend.run(here), feeds)
        assert trt.script.count("cuStreamBeginCapture") == 1
        forget(trt.cuda, there, *here.values())


def test_an_array_of_another_type_than_the_engine_s_is_refused(tmp_path: Path) -> None:
    trt = fresh("8.6")
    backend = open_backend(tmp_path, trt)
    feeds = request(3, 33)
    given = on_card(trt.cuda, feeds["ids"])
    # Not "convert it": the session takes the type of the ONNX file only.
    said = r"is int64 on cuda:0; wanted int32 on cuda:0, as the engine has it; send a NumPy array"
    with pytest.raises(RequestError, match=said):
        backend.run({**feeds, "ids": given})
    backend.close()


@pytest.mark.parametrize(
    ("changes", "text"), [({"version": 1}, "version 1"), ({"mask": object()}, "a mask")]
)
def test_an_interface_that_says_too_little_is_refused(changes: dict[str, Any], text: str) -> None:
    shown = on_card(FakeCuda(), np.zeros((2, 3))).interface | changes
    with pytest.raises(RequestError, match=f"input 'x' has a __cuda_array_interface__ with {text}"):
        device_array("x", OnCard(shown))


def test_an_array_in_host_memory_is_none() -> None:
    assert device_array("x", np.zeros(3)) is None
