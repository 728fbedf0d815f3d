"""Laws that hold for any operands of the functions in ptx.cuh, on the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.kernels.micro_run import Micro
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Input, Output

pytestmark = needs_gxx

# A kernel is a process: some milliseconds each, more on a busy machine.
few = settings(max_examples=25, deadline=None)
WORDS = arrays(np.uint32, 64)


def elementwise(entry: str, inputs: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    micro = Micro("emulator", 80, "arithmetic.cu")
    y = np.zeros(inputs[0].size, dtype)
    micro.each(entry, y.size, [*(Input(each) for each in inputs), int(y.size), Output(y)])
    return y


def shuffled(x: NDArray[np.uint32], lane_mask: int) -> NDArray[np.uint32]:
    y = np.zeros_like(x)
    micro = Micro("emulator", 80, "meetings.cu")
    micro.run(micro.launch("shuffle_word", block=x.size), Input(x), lane_mask, Output(y))
    return y


def multiplied(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[np.int32]:
    d = np.zeros((32, 4), np.int32)
    micro = Micro("emulator", 75, "matrices.cu")
    micro.run(micro.launch("mma_s8s8"), Input(a), Input(b), Input(c), Output(d))
    return d


@few
@given(x=WORDS, lane_mask=st.integers(0, 31))
def test_shuffling_twice_gives_the_values_back(x: NDArray[np.uint32], lane_mask: int) -> None:
    assert np.array_equal(shuffled(shuffled(x, lane_mask), lane_mask), x)


@few
@given(x=arrays(np.uint16, 64))
def test_widening_and_narrowing_a_half_gives_it_back(x: NDArray[np.uint16]) -> None:
    wide = elementwise("half_to_float", [x], np.float32)
    narrow = elementwise("float_to_half", [wide], np.uint16)
    numbers = ~np.isnan(x.view(np.float16))
    assert np.array_equal(narrow[numbers], x[numbers])


@few
@given(low=WORDS, high=WORDS)
def test_the_selector_in_order_gives_the_low_word(
    low: NDArray[np.uint32], high: NDArray[np.uint32]
) -> None:
    in_order = np.full(64, 0x3210, np.uint32)
    assert np.array_equal(elementwise("permute_bytes", [low, high, in_order], np.uint32), low)


@few
@given(x=arrays(np.float32, 64, elements=st.floats(-200, 200, width=32)))
def test_conversion_to_int8_is_odd_but_for_minus_128(x: NDArray[np.float32]) -> None:
    up, down = (elementwise("float_to_s8", [each], np.int32) for each in (x, -x))
    assert np.array_equal(np.clip(up, -127, 127), -np.clip(down, -127, 127))


@few
@given(a=arrays(np.uint32, (32, 4)), b=arrays(np.uint32, (32, 2)), c=arrays(np.int32, (32, 4)))
def test_mma_adds_its_start_to_the_product(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.int32]
) -> None:
    from_zero = multiplied(a, b, np.zeros_like(c))
    wrapped = from_zero.view(np.uint32) + c.view(np.uint32)
    assert np.array_equal(multiplied(a, b, c).view(np.uint32), wrapped)
