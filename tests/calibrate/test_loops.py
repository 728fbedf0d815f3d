from __future__ import annotations

from dataclasses import fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from trt_int8 import optional
from trt_int8.calibrate import loops

look = loops.compiled.__wrapped__  # without what it remembers


def installed(monkeypatch: pytest.MonkeyPatch, numba: object) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda name: name == "numba")
    monkeypatch.setattr(optional, "load", lambda name: numba)


def test_without_numba_there_are_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(optional, "is_installed", lambda name: False)
    monkeypatch.setattr(optional, "load", fail)
    assert look() is None


def test_a_numba_that_refuses_this_numpy_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 2.4.")

    monkeypatch.setattr(optional, "is_installed", lambda name: True)
    monkeypatch.setattr(optional, "load", refuse)
    assert look() is None


def test_loops_that_numba_is_told_not_to_compile_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=1)))
    assert look() is None


@pytest.mark.parametrize("writable", [True, False])
def test_code_is_kept_on_disk_where_numba_may_write(
    monkeypatch: pytest.MonkeyPatch, *, writable: bool
) -> None:
    made: list[tuple[str, bool]] = []

    def njit(function: Any, *, cache: bool = False) -> Any:
        if cache and not writable:
            raise RuntimeError("cannot cache function: no locator available")
        made.append((function.__name__, cache))
        return function

    installed(monkeypatch, SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=0), njit=njit))
    found = look()
    names = [field.name for field in fields(loops.Loops)]
    assert made == [(name, writable) for name in names]
    assert found == loops.Loops(*(getattr(loops, name) for name in names))


def test_loops_are_compiled_once() -> None:
    assert loops.compiled() is loops.compiled()
