"""Our plugins in sessions on several cards of one process: card 0 is an SM75, card 1 an SM80."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_trt import FakeTrt
from tests.runtime.gpu.opened import checked_bundle, fresh, signature
from trt_int8.engine.plugins import registration
from trt_int8.engine.plugins.callbacks import Tools
from trt_int8.errors import PluginError
from trt_int8.plugins.signatures import signatures
from trt_int8.runtime.gpu import plugins
from trt_int8.runtime.gpu.backend import EngineBackend, GpuOptions
from trt_int8.runtime.gpu.memory import current
from trt_int8.spec.plugins import PluginEntry


class Library:
    """`libcuda.so.1` of the same machine, as ctypes calls it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return flags

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        return self._answer(device, self._cuda.cuDeviceGet(ordinal))

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        return self._answer(value, self._cuda.cuDeviceGetAttribute(number, device.value))

    def cuCtxGetDevice(self, device: Any) -> int:  # noqa: N802
        if not self._cuda.stack:
            return 201  # CUDA_ERROR_INVALID_CONTEXT
        device._obj.value = self._cuda.stack[-1] - 7000
        return 0

    def _answer(self, pointer: Any, answer: tuple[Any, ...]) -> int:
        code, *results = answer
        pointer._obj.value = results[0]
        return int(code)


class FrontEnd:
    """`tensorrt.plugin`: one registry for the process, which refuses a name that it has."""

    def __init__(self) -> None:
        self.op = SimpleNamespace()
        self.tools: list[Tools] = []

    def make(self, _trt: Any, _front: Any, _signature: Any, tools: Tools) -> SimpleNamespace:
        """What `make_callbacks` is asked for; keeps the tools that the plugins will use."""
        self.tools.append(tools)
        return SimpleNamespace(describe=1, autotune=2, ahead_of_time=3, just_in_time=4)

    def register(self, plugin_id: str) -> Any:
        space, name = plugin_id.split("::")
        there = self.op.__dict__.setdefault(space, SimpleNamespace())
        if hasattr(there, name):
            raise ValueError(f"{plugin_id} already defined")
        return lambda function: setattr(there, name, function)

    def autotune(self, plugin_id: str) -> Any:
        return lambda function: None

    aot_impl = impl = autotune


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    made = fresh("10")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(made.cuda))
    return made


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> FrontEnd:
    made = FrontEnd()
    monkeypatch.setattr(registration, "check_support", lambda trt: made)
    monkeypatch.setattr(registration, "make_callbacks", made.make)
    return made


@contextmanager
def session(folder: Path, trt: FakeTrt, card: int) -> Iterator[Any]:
    """A session whose engine calls our plugins; gives a context manager: its card is current."""
    plugin = PluginEntry(id="x", version="1", nodes=1, source_sha256="0")
    checked = checked_bundle(folder / str(card), "10", plugins=(plugin,))
    options = GpuOptions(cache_folder=folder, driver=trt.cuda, tensorrt=trt)
    backend = EngineBackend(checked, signature(), card, options)
    try:
        yield lambda: current(backend._cuda, backend._context)
    finally:
        backend.close()


@pytest.mark.parametrize("cards", [(0, 1), (1, 0)])
def test_plugins_give_each_session_the_kernels_of_its_own_card(
    tmp_path: Path, trt: FakeTrt, front_end: FrontEnd, cards: tuple[int, int]
) -> None:
    wanted = {0: (75,), 1: (75, 80)}
    with session(tmp_path, trt, cards[0]) as first, session(tmp_path, trt, cards[1]) as second:
        assert len(front_end.tools) == len(signatures())
        for _ in range(2):
            for card, run in zip(cards, (first, second), strict=True):
                with run():
                    assert {tools.tactics() for tools in front_end.tools} == {wanted[card]}


def test_an_old_card_keeps_no_session_from_a_newer_one(
    tmp_path: Path, trt: FakeTrt, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {(75, 0): 6, (76, 0): 1, (75, 1): 8, (76, 1): 6}  # SM61 and SM86
    monkeypatch.setattr(
        Library,
        "cuDeviceGetAttribute",
        lambda self, value, number, device: self._answer(value, (0, numbers[number, device.value])),
    )
    refused = pytest.raises(PluginError, match="the card is an SM61; wanted SM75 or newer")
    with session(tmp_path, trt, 1), refused, session(tmp_path, trt, 0):
        pass
    assert (trt.cuda.alive(), trt.cuda.retained) == ({}, 0)


def test_sessions_that_open_at_once_register_one_after_the_other(
    tmp_path: Path, trt: FakeTrt, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[bool] = []

    def make(*given: Any) -> SimpleNamespace:
        locked.append(plugins._loaded_into(trt).lock.locked())
        return front_end.make(*given)

    monkeypatch.setattr(registration, "make_callbacks", make)
    with session(tmp_path, trt, 0):
        assert locked == [True] * len(signatures())
    assert not plugins._loaded_into(trt).lock.locked()
