"""The largest value of every tensor, and what counts in masked scores."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.support.onnx_tiny import Tiny, f32, noise
from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.overflow import near_overflow, peaks_of, some_batches
from trt_int8.errors import GraphError
from trt_int8.graph.normalize import normalize

AXES: list[int | str] = ["b", "s", 7]


def graph(tiny: Tiny) -> onnx.ModelProto:
    return normalize(tiny.build({"x": AXES}, {"y": ["b", "s", "n"]}))


def batches_of(*arrays: np.ndarray) -> list[Batch]:
    return [{"x": f32(array)} for array in arrays]


def test_the_largest_magnitude_over_all_batches_is_found_per_tensor() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.op("Mul", "x", tiny.const("c", f32([-3.0] * 7)), out="m"), out="y")
    first, second = noise(2, 3, 7), noise(1, 5, 7, seed=1) * 9
    peaks = peaks_of(graph(tiny), batches_of(first, second))
    both = np.concatenate([first.ravel(), second.ravel()])
    assert peaks["m"] == pytest.approx(3 * np.abs(both).max(), rel=1e-6)
    assert peaks["y"] == pytest.approx(max(0, (-3 * both).max()), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_the_batches_does_not_matter(order: list[int]) -> None:
    tiny = Tiny()
    tiny.op("Neg", tiny.op("Exp", "x", out="e"), out="y")
    batches = batches_of(*(noise(1, 3, 7, seed=s) for s in range(4)))
    model = graph(tiny)
    assert peaks_of(model, [batches[i] for i in order]) == peaks_of(model, batches)


def test_constants_and_codes_are_no_tensors_to_look_at() -> None:
    tiny = Tiny()
    filled = tiny.op("ConstantOfShape", tiny.op("Shape", "x", out="shape"), out="zeros")
    tiny.op("Add", tiny.op("Add", tiny.pair("x", 0.1), filled, out="a"), "x", out="y")
    peaks = peaks_of(graph(tiny), batches_of(noise(1, 3, 7)))
    assert {"x", "a", "y"} <= set(peaks)
    assert not {"zeros", "shape"} & set(peaks)
    assert len(peaks) == 4  # and what DequantizeLinear makes, but not the codes


def attention(mask: float, factor: float = 1.0) -> Tiny:
    """Softmax(x xT + mask where x > 0), times x."""
    tiny = Tiny()
    scaled = tiny.op("Mul", "x", tiny.const("factor", factor))
    turned = tiny.op("Transpose", "x", perm=[0, 2, 1])
    scores = tiny.op("MatMul", scaled, turned, out="scores")
    is_hidden = tiny.op("Greater", scores, tiny.const("zero", 0.0))
    hidden = tiny.op(
        "Where", is_hidden, tiny.const("low", f32([mask])), tiny.const("no", f32([0])), out="mask"
    )
    weights = tiny.op("Softmax", tiny.op("Add", scores, hidden, out="masked"), axis=-1)
    tiny.op("MatMul", weights, "x", out="y")
    return tiny


@pytest.mark.parametrize("mask", [-3.4e38, -1e9, -65504.0, -np.inf])
def test_a_mask_is_no_overflow(mask: float) -> None:
    peaks = peaks_of(graph(attention(mask)), batches_of(noise(2, 5, 7)))
    assert near_overflow(peaks) == {}
    assert peaks["mask"] == 0.0


@pytest.mark.parametrize("factor", [1e5, -1e5])
def test_scores_too_large_are_found_below_the_mask_whatever_their_sign(factor: float) -> None:
    peaks = peaks_of(graph(attention(-1e9, factor)), batches_of(noise(2, 5, 7)))
    assert "scores" in near_overflow(peaks)


def test_a_large_negative_value_outside_of_attention_counts() -> None:
    tiny = Tiny()
    large = tiny.op("Mul", "x", tiny.const("c", -1e5), out="large")
    tiny.op("Add", tiny.op("Softmax", large, axis=-1), large, out="y")
    peaks = peaks_of(graph(tiny), batches_of(np.abs(noise(1, 3, 7)) + 1))
    assert {"large", "y"} == set(near_overflow(peaks))


@pytest.mark.parametrize(("peak", "near"), [(8188.0, False), (8188.1, True), (np.inf, True)])
def test_near_means_beyond_an_eighth_of_the_largest_half(peak: float, near: bool) -> None:
    assert bool(near_overflow({"t": peak})) is near


def test_some_batches_are_spread_over_all_with_the_last_one() -> None:
    batches = [{"x": np.full((8, 1), n)} for n in range(40)]
    seen = [int(batch["x"][0, 0]) for batch in some_batches(batches)]
    assert len(seen) == 8
    assert (seen[0], seen[-1]) == (0, 39)
    assert max(np.diff(seen)) - min(np.diff(seen)) <= 1


@pytest.mark.parametrize(("count", "rows", "looked_at"), [(3, 8, 3), (1, 999, 1), (99, 999, 1)])
def test_few_batches_are_all_looked_at_and_of_large_ones_one(
    count: int, rows: int, looked_at: int
) -> None:
    batches = [{"x": np.full((rows, 1), n)} for n in range(count)]
    assert len(some_batches(batches)) == looked_at
    assert some_batches(batches)[-1]["x"][0, 0] == count - 1


def test_without_batches_nothing_is_known() -> None:
    tiny = Tiny()
    tiny.op("Neg", "x", out="y")
    assert peaks_of(graph(tiny), []) == {}


def test_arrays_that_the_graph_does_not_read_are_left_out() -> None:
    tiny = Tiny()
    tiny.op("Neg", "x", out="y")
    batch: Batch = {"x": noise(1, 3, 7), "unused": np.zeros((1, 3), np.int64)}
    assert peaks_of(graph(tiny), [batch])["y"] > 0


def test_a_graph_that_does_not_run_is_an_error() -> None:
    tiny = Tiny()
    tiny.op("Neg", "x", out="y")
    with pytest.raises(GraphError, match="cannot look at the tensors"):
        peaks_of(graph(tiny), [{"x": np.zeros((1, 3, 9), np.float32)}])


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_any_opset_can_be_looked_at(opset: int) -> None:
    tiny = Tiny()
    tiny.op("Neg", "x", out="y")
    model = normalize(tiny.build({"x": AXES}, {"y": AXES}, opset=opset, dtype=TensorProto.FLOAT))
    assert peaks_of(model, batches_of(np.full((1, 2, 7), -5.0)))["y"] == 5.0
