"""Every single call fails once: everything is freed exactly once, and the error says which call."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.gpu.card_arrays import OnCard, on_card
from tests.runtime.gpu.fake_trt import FakeTrt
from tests.runtime.gpu.opened import check, check_clean, fresh, open_backend, request
from trt_int8.errors import SessionError
from trt_int8.runtime.gpu.backend import EngineBackend

# Calls whose result is no error: a log line, or a cache that was made anew.
HARMLESS = {"init_libnvinfer_plugins", "cache.deserialize"}
CAPTURING = {"cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"}


class Life:
    """A session from opening to end: two workers, more shapes than graphs, buffers that grow."""

    def __init__(self, folder: Path, flavour: str, trt: FakeTrt | None = None) -> None:
        self.folder, self.trt = folder, trt or fresh(flavour)
        self.errors: list[SessionError] = []
        self.answers = 0
        self.notes: tuple[str, ...] = ()

    def live(self) -> Life:
        with self._noting():
            backend = open_backend(self.folder, self.trt, workers=2, graphs=2)
            for size in ((1, 17), (1, 17), (2, 65), (3, 33), (1, 17)):
                self._run(backend, size)
            self._run_on_card(backend)
            self._run_grown(backend)
            with self._noting():
                backend.close()
            backend.close()
            self.notes = backend.notes
        return self

    def _run(self, backend: EngineBackend, size: tuple[int, int]) -> None:
        with self._noting():
            feeds = request(*size)
            check(backend.run(feeds), feeds)
            self.answers += 1

    def _run_on_card(self, backend: EngineBackend) -> None:
        feeds = request(1, 17)
        kind = self.trt.token_kind.value
        given = {n: on_card(self.trt.cuda, array.astype(kind)) for n, array in feeds.items()}
        with self._noting():
            check(backend.run(given), feeds)
            self.answers += 1
        for array in given.values():
            self._forget(array)

    def _run_grown(self, backend: EngineBackend) -> None:
        """Outputs that are larger than foreseen, so that buffers are made anew."""
        self.trt.growth = 3
        with self._noting():
            backend.run(request(4, 64))
            self.answers += 1
        self.trt.growth = 1

    def _forget(self, array: OnCard) -> None:
        del self.trt.cuda.device[array.interface["data"][0]]

    @contextlib.contextmanager
    def _noting(self) -> Any:
        # The caller keeps the error, as a future does: it must not keep anything alive.
        try:
            yield
        except SessionError as error:
            self.errors.append(error)


def calls_of(flavour: str, folder: Path) -> list[str]:
    life = Life(folder, flavour).live()
    assert (life.errors, life.answers) == ([], 7)
    check_clean(life.trt)
    return life.trt.script.names()


def is_close(names: list[str], index: int) -> bool:
    """Whether a push is the one before everything is freed."""
    return "cuCtxPushCurrent" not in names[index + 1 :]


@pytest.mark.parametrize("flavour", ["8.6", "10", "rtx"])
def test_a_failure_of_any_call_frees_everything_once_and_is_named(
    tmp_path: Path, flavour: str
) -> None:
    names = calls_of(flavour, tmp_path / "whole")
    assert len(names) > 100
    for index, name in enumerate(names):
        life = Life(tmp_path / str(index), flavour)
        life.trt.script.fail_at = index
        life.live()
        where = f"call {index}, {name}"
        if name == "cuCtxPushCurrent" and is_close(names, index):
            # Then nothing can be freed but by releasing the context, which frees all it has.
            assert life.trt.cuda.retained == 0
            continue
        check_all_freed(life.trt, where)
        if name in HARMLESS:
            assert life.errors == [], where
        elif name in CAPTURING or (not life.errors and life.notes):
            assert name in life.notes[0], where
        else:
            assert any(name.removeprefix("cu") in error.came for error in life.errors), where
            assert len(life.errors) == 1, where
            assert life.answers >= 6 or index <= names.index("cuCtxPopCurrent"), where


def check_all_freed(trt: FakeTrt, where: str) -> None:
    try:
        check_clean(trt)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


def test_the_error_that_a_caller_keeps_keeps_no_object_of_tensorrt(tmp_path: Path) -> None:
    trt = fresh()
    backend = open_backend(tmp_path, trt)
    trt.script.fail_name = "set_tensor_address"
    gc.disable()
    try:
        with pytest.raises(SessionError) as kept:
            backend.run(request(1, 17))
        assert trt.living() == ["FakeRuntime", "Engine10"]
        backend.close()
        assert trt.living() == []
        assert "set_tensor_address" in kept.value.came
    finally:
        gc.enable()


def test_a_worker_runs_on_after_a_request_that_failed(tmp_path: Path) -> None:
    trt = fresh()
    backend = open_backend(tmp_path, trt)
    feeds = request(1, 17)
    backend.run(feeds)
    for call in ("cuGraphLaunch", "cuStreamSynchronize", "cuCtxPushCurrent"):
        trt.script.fail_name = call
        with pytest.raises(SessionError, match=call):
            backend.run(feeds)
        trt.script.fail_name = None
        check(backend.run(feeds), feeds)
        check(backend.run(feeds), feeds)
    backend.close()
    check_clean(trt)


def test_the_context_of_a_failed_request_is_not_used_again(tmp_path: Path) -> None:
    trt = fresh()
    backend = open_backend(tmp_path, trt)
    backend.run(request(1, 17))
    trt.script.fail_name = "cuGraphLaunch"
    with pytest.raises(SessionError, match="cuGraphLaunch"):
        backend.run(request(1, 17))
    assert "Context10" not in trt.living()
    assert "executables" not in trt.cuda.alive()
    backend.close()


def test_the_leak_check_sees_a_leak(tmp_path: Path) -> None:
    trt = fresh()
    backend = open_backend(tmp_path, trt)
    trt.cuda.cuCtxPushCurrent(7000)
    trt.cuda.cuMemAlloc(5)
    trt.cuda.cuCtxPopCurrent()
    backend.close()
    with pytest.raises(AssertionError):
        check_clean(trt)
