from __future__ import annotations

import sys

import pytest

from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_machine import CARD_MEMORY
from trt_int8.engine.flavour import local_sm
from trt_int8.errors import DeviceError, MissingPackageError
from trt_int8.runtime.gpu.cards import Card, cards, find_card

FIRST = Card(0, "Tesla T4", 75, CARD_MEMORY, 12080)
SECOND = Card(1, "Tesla T5", 80, CARD_MEMORY + 1, 12080)


def test_all_cards_are_found_in_the_order_of_their_index() -> None:
    assert cards(FakeCuda()) == (FIRST, SECOND)


def test_a_card_is_found_by_its_index() -> None:
    assert find_card(1, FakeCuda()) == SECOND


@pytest.mark.parametrize("index", [2, -1])
def test_a_card_that_is_not_there_is_an_error_that_names_those_that_are(index: int) -> None:
    with pytest.raises(DeviceError, match=f"no card cuda:{index}; wanted cuda:0 to cuda:1"):
        find_card(index, FakeCuda())


@pytest.mark.parametrize(
    "call",
    ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceTotalMem"],
)
def test_without_a_working_driver_there_are_no_cards(call: str) -> None:
    cuda = FakeCuda()
    cuda.script.fail_name = call
    assert cards(cuda) == ()
    with pytest.raises(DeviceError, match=f"{call} of the CUDA driver gave CUDA_ERROR_UNKNOWN"):
        find_card(0, cuda)


def test_without_cuda_python_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    assert cards() == ()
    with pytest.raises(MissingPackageError, match=r"cuda\.bindings\.driver"):
        find_card(0)


@pytest.mark.skipif(local_sm() is not None, reason="this machine has a card")
def test_a_machine_without_a_driver_has_no_cards() -> None:
    pytest.importorskip("cuda.bindings.driver")
    assert cards() == ()
    with pytest.raises(DeviceError, match="pass --device cpu"):
        find_card(0)
