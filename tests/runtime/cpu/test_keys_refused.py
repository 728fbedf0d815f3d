from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.keys_graph import (
    BIAS,
    GRID,
    PLAIN,
    B,
    D,
    H,
    K,
    N,
    S,
    Step,
    attention,
    bias,
    codes,
    constant,
    linear,
    pair,
    scales,
    split,
    turn,
)
from tests.support.onnx_tiny import Tiny
from trt_int8.runtime.cpu.keys import transpose_keys

SHAPES = ({"x": (B, S, K)},)


def rotated(tiny: Tiny, x: str) -> str:
    factor = tiny.op("ReduceMax", "x", axes=[2], keepdims=1)
    return tiny.op("Mul", x, tiny.op("Cos", factor))


def repeated(tiny: Tiny, x: str) -> str:
    return tiny.op("Tile", x, tiny.const("times", [1, 1, 1, 1]))


def turned_beside(tiny: Tiny, x: str) -> str:
    tiny.op("Identity", tiny.op("Transpose", x, perm=[0, 2, 1]), out="beside")
    return x


def read_beside(tiny: Tiny, x: str) -> str:
    tiny.op("Identity", x, out="beside")
    return x


def pair_per_channel(tiny: Tiny, x: str) -> str:
    return tiny.pair(x, scales(), axis=2)


def float_weight(tiny: Tiny, x: str) -> str:
    return tiny.op("MatMul", x, tiny.const("w", codes(K, H) * np.float32(GRID)))


def weight_with_quantizer(tiny: Tiny, x: str) -> str:
    read = tiny.pair(tiny.const("w", codes(K, H) * np.float32(GRID)), GRID)
    return tiny.op("MatMul", x, read)


def weight_made_at_run_time(tiny: Tiny, x: str) -> str:
    made = tiny.op("ReduceMax", "x", axes=[1], keepdims=1)
    column = tiny.op("Transpose", made, perm=[0, 2, 1])
    ones = tiny.const("row", np.ones((1, 1, H), np.float32))
    return tiny.op("MatMul", x, tiny.pair(tiny.op("MatMul", column, ones), GRID))


def gemm(tiny: Tiny, x: str) -> str:
    names = [tiny.const("w", codes(K, H)), tiny.const("s", scales())]
    read = tiny.op("DequantizeLinear", *names, tiny.const("z", np.zeros(H, np.int8)), axis=1)
    return tiny.op("Gemm", x, read, tiny.const("b", BIAS.astype(np.float32)))


_START, _END = (linear(), bias), (split(), turn(), pair)
_PER_WORD = np.arange(D, dtype=np.float32)
REFUSED: dict[str, tuple[Step, ...]] = {
    "no pair": (*_START, split(), turn()),
    "rotated": (linear(), rotated, *_END),
    "repeated": (*_START, split(), repeated, turn(), pair),
    "another function": (*_START, lambda tiny, x: tiny.op("Relu", x), *_END),
    "divisor": (*_START, constant("Div", 2.0, first=True), *_END),
    "a constant per place in a head": (*_START, split(), constant("Add", _PER_WORD), turn(), pair),
    "a constant of rank 4": (
        *_START, constant("Mul", [[[[2.0]]]]), split(B, S, N, D), turn(), pair,
    ),
    "a constant per token": (*_START, constant("Add", codes(S, H)), *_END),
    "scales of the pair per channel": (*_START, pair_per_channel, *_END),
    "zero point": (linear(zero=1), bias, *_END),
    "unsigned": (linear(weight=codes(K, H).view(np.uint8)), bias, *_END),
    "scales along the sum": (linear(scale=scales(K), axis=0), bias, *_END),
    "float weight": (float_weight, bias, *_END),
    "weight with a quantizer": (weight_with_quantizer, bias, *_END),
    "weight of the moment": (weight_made_at_run_time, bias, *_END),
    "rows of tokens": (split(-1, K), *_START, split(B, S, N, D), turn(), pair),
    "tokens of rank 4": (split(B, S, 1, K), *_START, split(B, S, N, D), turn(), pair),
    "Gemm": (split(-1, K), gemm, split(B, S, N, D), turn(), pair),
    "samples cut in windows": (*_START, split(S, B, N, D), turn(), pair),
    "two splits": (*_START, split(0, 0, H, 1), *_END),
    "no heads": (*_START, turn(0, 2, 1), pair),
}  # fmt: skip


@pytest.mark.parametrize("steps", REFUSED.values(), ids=REFUSED)
def test_anything_else_stays_as_it_is(steps: tuple[Step, ...]) -> None:
    data = attention(*steps).SerializeToString()
    assert transpose_keys(data, SHAPES) is data


SQUARE = codes(H, H)
WEIGHTS: dict[str, Step] = {
    "rank 3": linear(weight=SQUARE[None], scale=0.5),
    "scales along the sum": linear(weight=SQUARE, scale=scales(), axis=0),
    "blocks": linear(weight=SQUARE, scale=np.full((H, N), 0.5), axis=1, block_size=D),
}


@pytest.mark.parametrize("product", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_of_other_forms_stay_though_their_axes_are_equal(product: Step) -> None:
    axes: Any = ["batch", "sequence", H]
    for step, stays in ((linear(weight=SQUARE), False), (product, True)):
        model = attention(step, bias, *_END, axes=axes)
        # The first with blocks.
        model.opset_import[0].version, model.ir_version = 21, 10
        onnx.checker.check_model(model, full_check=True)
        data = model.SerializeToString()
        assert (transpose_keys(data, [{"x": (B, S, H)}]) is data) == stays


def test_keys_that_someone_reads_in_another_layout_stay() -> None:
    data = attention(linear(), turned_beside, bias, *_END, more={"beside": 3}).SerializeToString()
    assert transpose_keys(data, SHAPES) is data


@pytest.mark.parametrize("place", range(1, len(PLAIN)))
def test_keys_that_someone_else_reads_stay(place: int) -> None:
    steps = (*PLAIN[:place], read_beside, *PLAIN[place:])
    rank = 3 if place < 3 else 4
    data = attention(*steps, more={"beside": rank}).SerializeToString()
    # The Transpose goes anyway; what it made is what its reader gets.
    assert (transpose_keys(data, SHAPES) is data) == (place < len(PLAIN) - 1)


@pytest.mark.parametrize(("tensor", "rank"), [("keys_product", 3), ("split", 4), ("turned", 4)])
def test_keys_that_are_an_output_stay(tensor: str, rank: int) -> None:
    model = attention(*PLAIN, more={tensor: rank})
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    assert transpose_keys(data, SHAPES) is data


def test_values_and_transposes_of_other_axes_stay() -> None:
    square: Any = [B, D, K]
    for steps, first in ((PLAIN, True), ((*_START, split(), turn(0, 2, 1, 3), pair), False)):
        model = attention(*steps, axes=square, keys_first=first)
        onnx.checker.check_model(model, full_check=True)
        data = model.SerializeToString()
        assert transpose_keys(data, [{"x": (B, D, K)}]) is data
