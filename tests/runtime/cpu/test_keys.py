from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    measured_split,
    pair,
    scales,
    split,
    turn,
)
from tests.support.onnx_tiny import Tiny, attribute, constants_of, count, run_ort
from trt_int8.graph.normalize import normalize
from trt_int8.runtime.cpu.keys import transpose_keys

SHAPES = ({"x": (B, S, K)},)


def rewritten(model: onnx.ModelProto, shapes: Any = SHAPES) -> onnx.ModelProto:
    """After the pass, which must have done something, checked in full."""
    data = model.SerializeToString()
    made = transpose_keys(data, shapes)
    assert made is not data
    result = onnx.load_model_from_string(made)
    onnx.checker.check_model(result, full_check=True)
    return result


def turns_of(model: onnx.ModelProto) -> list[list[int]]:
    nodes = [node for node in model.graph.node if node.op_type == "Transpose"]
    return sorted(attribute(node, "perm") for node in nodes)


def tokens(batch: int = B, length: int = S, size: int = K) -> NDArray[np.float32]:
    return codes(batch, length, size, seed=batch).astype(np.float32) * np.float32(GRID)


def assert_same(one: onnx.ModelProto, two: onnx.ModelProto, x: NDArray[np.float32]) -> None:
    for before, after in zip(run_ort(one, {"x": x}), run_ort(two, {"x": x}), strict=True):
        assert np.ptp(before) > 0
        np.testing.assert_array_equal(before, after)


def pair_of_lists(tiny: Tiny, x: str) -> str:
    return tiny.pair(x, np.full(1, 16 * GRID, np.float32))


KEYS: dict[str, tuple[Step, ...]] = {
    "bias": PLAIN,
    "bias is the first operand": (
        linear(), constant("Add", BIAS, first=True), split(), turn(), pair,
    ),
    "no bias": (linear(), split(), turn(), pair),
    "one scale": (linear(scale=2.0**-5), bias, split(), turn(), pair),
    "one scale in a list": (linear(scale=[2.0**-5]), bias, split(), turn(), pair),
    "axis counted from the end": (linear(axis=-1), bias, split(), turn(), pair),
    "no zero point": (linear(zero=None), bias, split(), turn(), pair),
    "sizes are measured": (linear(), bias, measured_split, turn(), pair),
    "heads are a rest": (linear(), bias, split(0, 0, -1, D), turn(), pair),
    "sizes are constants": (linear(), bias, split(B, S, N, D, allowzero=1), turn(), pair),
    "pair before the split": (linear(), bias, pair, split(), turn()),
    "pair behind the split": (linear(), bias, split(), pair, turn()),
    "pair with its scale in a list": (linear(), pair_of_lists, bias, split(), turn()),
    "two pairs": (linear(), pair, bias, split(), turn(), pair),
    "scaled when turned": (linear(), bias, split(), turn(), constant("Mul", 0.5), pair),
    "scaled when split": (linear(), split(), constant("Div", [4.0]), turn(), pair),
    "scaled per channel": (linear(), bias, constant("Mul", scales()), split(), turn(), pair),
    "scaled by one number of rank 3": (
        linear(), constant("Mul", [[[0.25]]], first=True), split(), turn(), pair,
    ),
}  # fmt: skip


@pytest.mark.parametrize("steps", KEYS.values(), ids=KEYS)
def test_keys_are_made_transposed_and_the_scores_keep_their_bits(steps: tuple[Step, ...]) -> None:
    model = attention(*steps)
    result = rewritten(model)
    assert turns_of(model) == [[0, 2, 1, 3], [0, 2, 3, 1]]
    assert turns_of(result) == [[0, 2, 1], [0, 2, 1, 3]]
    for kind in ("QuantizeLinear", "DequantizeLinear", "MatMul", "Add", "Mul", "Div"):
        assert count(model, kind) == count(result, kind)
    assert_same(model, result, tokens())


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 5))
def test_whatever_the_sizes_the_scores_keep_their_bits(sizes: tuple[int, ...]) -> None:
    batch, length, width, n_heads, size = sizes
    n_channels = n_heads * size
    product = linear(weight=codes(width, n_channels))
    added = constant("Add", codes(n_channels, seed=6) * GRID)
    axes: Any = ["batch", "sequence", width]
    model = attention(
        *(product, added, split(0, 0, n_heads, size), turn(), pair),
        axes=axes,
        heads=(n_heads, size),
    )
    result = rewritten(model, [{"x": (batch, length, width)}])
    x = tokens(batch, length, width)
    for before, after in zip(run_ort(model, {"x": x}), run_ort(result, {"x": x}), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_transposed_weight_has_its_scales_along_the_other_axis() -> None:
    result = rewritten(attention(*PLAIN))
    known = constants_of(result)
    turned = next(name for name, array in known.items() if array.shape == (H, K))
    np.testing.assert_array_equal(known[turned], codes(K, H).T)
    read = next(node for node in result.graph.node if turned in node.input)
    assert (read.op_type, attribute(read, "axis")) == ("DequantizeLinear", 0)
    np.testing.assert_array_equal(known[read.input[1]], scales())
    assert known[read.input[2]].dtype == np.int8
    assert not known[read.input[2]].any()


def test_no_name_is_taken_twice() -> None:
    model = attention(*PLAIN)
    for name in ("keys_product_turned", "keys_w_turned", "keys_product_heads"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, "f4"), name))
        model.graph.node.append(
            onnx.helper.make_node("Identity", [name], [f"{name}_read"], name="n")
        )
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}_read", 1, [1]))
    result = rewritten(model)
    names = [*constants_of(result), *(name for node in result.graph.node for name in node.output)]
    assert len(names) == len(set(names))
    nodes = [node.name for node in result.graph.node]
    assert "" not in nodes
    assert len(nodes) == len(set(nodes))
    assert [len(array) for array in run_ort(result, {"x": tokens()})[1:]] == [1, 1, 1]


def test_inputs_and_outputs_are_as_they_were() -> None:
    model = attention(*PLAIN)
    result = rewritten(model)
    assert result.graph.input == model.graph.input
    assert result.graph.output == model.graph.output
    assert_same(model, result, tokens(2, 9))


def test_what_nobody_reads_does_not_count_as_a_reader() -> None:
    model = attention(*PLAIN)
    for name in ("keys_product", "turned"):
        model.graph.node.append(onnx.helper.make_node("Cos", [name], [f"idle_{name}"]))
    assert_same(model, rewritten(model), tokens())


def test_the_sizes_of_keys_may_be_read_elsewhere() -> None:
    def measured(tiny: Tiny, x: str) -> str:
        first = tiny.op("Shape", x)
        second = tiny.op("Shape", tiny.op("Transpose", x, perm=[2, 1, 0]))
        for place, shape in enumerate((first, second)):
            tiny.op("Cast", shape, to=1, out=f"sizes_{place}")
        return x

    model = attention(*PLAIN[:2], measured, *PLAIN[2:], more={"sizes_0": 1, "sizes_1": 1})
    result = rewritten(model)
    assert "turned" not in [name for node in result.graph.node for name in node.output]
    assert_same(model, result, tokens())


def again(tiny: Tiny, x: str) -> str:
    """A second attention whose keys have the same tokens and weight, with the scores `others`."""
    first = next(node for node in tiny.nodes if "keys_product" in node.output)
    value = tiny.op("MatMul", *first.input)
    for step in (split(0, 0, N, D), turn(0, 2, 3, 1), pair):
        value = step(tiny, value)
    tiny.op(
        "MatMul", tiny.op("Tanh", tiny.op("Transpose", x, perm=[0, 1, 3, 2])), value, out="others"
    )
    return x


def test_a_weight_that_layers_share_is_stored_once() -> None:
    model = attention(*PLAIN, again, more={"others": 4})
    result = rewritten(model)
    assert turns_of(result).count([0, 2, 3, 1]) == 0
    shapes = [array.shape for array in constants_of(result).values()]
    assert (shapes.count((K, H)), shapes.count((H, K))) == (1, 1)
    for x in (tokens(), tokens(1, 9)):
        one, two = (run_ort(each, {"x": x}) for each in (model, result))
        np.testing.assert_array_equal(one[0], two[0])
        # The sums of tanh are on no grid.
        np.testing.assert_allclose(one[1], two[1], rtol=1e-5, atol=1e-4)


def test_a_weight_that_another_linear_reads_stays_for_it() -> None:
    def value(tiny: Tiny, x: str) -> str:
        first = next(node for node in tiny.nodes if "keys_product" in node.output)
        tiny.op("MatMul", "x", first.input[1], out="values")
        return x

    model = attention(*PLAIN, value, more={"values": 3})
    result = rewritten(model)
    np.testing.assert_array_equal(constants_of(result)["keys_w"], codes(K, H))
    assert_same(model, result, tokens())


def test_two_transposes_are_rewritten_in_their_normal_form() -> None:
    two = (linear(), bias, split(), turn(0, 2, 1, 3), pair, turn(0, 1, 3, 2))
    model = attention(*two)
    data = model.SerializeToString()
    assert transpose_keys(data, SHAPES) is data
    assert_same(model, rewritten(normalize(model)), tokens())


def test_every_shape_must_be_split_the_same_way() -> None:
    model = attention(linear(), bias, split(B, S, N, D), turn(), pair)
    data = model.SerializeToString()
    assert_same(model, rewritten(model), tokens())
    assert transpose_keys(data, [*SHAPES, {"x": (S, B, K)}]) is data
    assert transpose_keys(data, ()) is data


def test_every_shape_must_have_as_many_heads() -> None:
    def split_by_length(tiny: Tiny, x: str) -> str:
        length = tiny.op("Gather", tiny.op("Shape", x), tiny.const("place", [1]))
        sizes = tiny.op("Concat", tiny.const("start", [0, 0, -1]), length, axis=0)
        return tiny.op("Reshape", x, sizes)

    model = attention(linear(), bias, split_by_length, turn(), pair)
    data = model.SerializeToString()
    assert_same(model, rewritten(model, [{"x": (B, D, K)}]), tokens(B, D))
    assert transpose_keys(data, [{"x": (B, D, K)}, {"x": (B, N, K)}]) is data


def test_keys_of_several_queries_are_made_once() -> None:
    def twice(tiny: Tiny, x: str) -> str:
        tiny.op(
            "MatMul", tiny.const("queries", codes(1, N, 4, D) * np.float32(GRID)), x, out="more"
        )
        return x

    model = attention(*PLAIN, twice, more={"more": 4})
    result = rewritten(model)
    assert count(result, "Transpose") == count(model, "Transpose")
    assert_same(model, result, tokens())


def test_sizes_of_one_that_onnx_does_not_know_are_enough() -> None:
    def joined(tiny: Tiny, x: str) -> str:
        sizes = tiny.op("Abs", tiny.op("Shape", "x"))
        other = tiny.op("Expand", tiny.const("nothing", np.zeros((1, 1, 1), np.float32)), sizes)
        return tiny.pair(tiny.op("Add", x, tiny.op("Cast", other, to=1)), GRID)

    model = attention(joined, linear(), bias, measured_split, turn(), pair)
    shape = (1, S, K)
    assert_same(model, rewritten(model, [{"x": shape}]), tokens(*shape))
