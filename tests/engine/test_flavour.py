from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from trt_int8 import optional
from trt_int8.engine import flavour as choice
from trt_int8.engine.adapter import Adapter
from trt_int8.errors import MissingPackageError, TargetError
from trt_int8.spec.build import Flavour


def cuda(monkeypatch: pytest.MonkeyPatch, init: int, capability: dict[int, int]) -> None:
    """A CUDA driver whose first device has this compute capability."""

    def attribute(value: Any, number: int, device: Any) -> int:
        value._obj.value = capability[number]
        return 0

    driver = SimpleNamespace(
        cuInit=lambda flags: init,
        cuDeviceGet=lambda device, ordinal: 0,
        cuDeviceGetAttribute=attribute,
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)


def test_the_local_capability_is_asked_of_the_cuda_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 0, {75: 12, 76: 1})
    assert choice.local_sm() == 121


def test_a_driver_without_a_device_gives_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 100, {75: 8, 76: 0})
    assert choice.local_sm() is None


def test_a_machine_without_a_cuda_driver_has_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert choice.local_sm() is None
    assert choice.LocalCards().current_sm() is None


class TwoCards:
    """A driver with an SM75 and an SM120; `current` has its CUDA context current."""

    def __init__(self, current: int | None) -> None:
        self.current, self.asked = current, 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return flags

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuCtxGetDevice(self, device: Any) -> int:  # noqa: N802
        if self.current is None:
            return 201  # CUDA_ERROR_INVALID_CONTEXT
        device._obj.value = self.current
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        self.asked += 1
        value._obj.value = {75: (7, 12), 76: (5, 0)}[number][device.value]
        return 0


def test_the_card_whose_context_is_current_is_asked_else_the_first_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = TwoCards(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    found, cards = [], choice.LocalCards()
    for driver.current in (None, 1, 0, 1, None):
        found.append(cards.current_sm())
    assert found == [75, 120, 75, 120, 75]
    assert driver.asked == 4, "two numbers of each card, once"
    driver.current = 1
    assert choice.local_sm() == 75


@pytest.mark.parametrize(
    ("installed", "sm", "flavour"),
    [(True, 75, "tensorrt"), (True, None, "rtx"), (False, 75, "rtx"), (False, None, "rtx")],
)
def test_auto_takes_tensorrt_only_with_the_package_and_a_card(
    installed: bool, sm: int | None, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda name: installed)
    monkeypatch.setattr(choice, "local_sm", lambda: sm)
    assert choice.choose_flavour("auto").value == flavour


@pytest.mark.parametrize("flavour", ["rtx", "tensorrt"])
def test_an_asked_flavour_is_taken_as_it_is(flavour: str) -> None:
    assert choice.choose_flavour(flavour).value == flavour


def test_tensorrt_without_a_card_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda name: True)
    monkeypatch.setattr(choice, "local_sm", lambda: None)
    with pytest.raises(TargetError, match=r"no NVIDIA GPU .*pass --flavour rtx"):
        choice.check_available(Flavour.TENSORRT)
    choice.check_available(Flavour.RTX)


def test_a_flavour_whose_package_is_missing_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(choice.MODULE_OF, Flavour.RTX, "no_such_trt")
    with pytest.raises(MissingPackageError, match="'no_such_trt' is not installed"):
        choice.check_available(Flavour.RTX)


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optional.__dict__["_EXTRA_OF"], "no_such_trt", "tensorrt")
    monkeypatch.setitem(choice.MODULE_OF, Flavour.TENSORRT, "no_such_trt")
    with pytest.raises(MissingPackageError, match=r"'no_such_trt' is not .*trt-int8\[tensorrt\]"):
        Adapter(Flavour.TENSORRT)
