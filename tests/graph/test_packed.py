"""A packed Linear is cut into its parts, and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.blocks import PACKED_FORMS, encoder, packed
from tests.support.onnx_tiny import Tiny, constants_of, count, noise, run_ort
from trt_int8.graph.normalize import normalize
from trt_int8.graph.packed import split_packed


def whole(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Small whole numbers: every sum of products with multiples of 1/64 is exact."""
    return np.rint(noise(*shape, seed=9) * 4).astype(np.float32)


def linears(model: onnx.ModelProto) -> list[str]:
    return [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]


def widths(model: onnx.ModelProto) -> list[int]:
    stored = constants_of(model)
    nodes = [n for n in model.graph.node if n.name.startswith("qkv")]
    return [stored[n.input[1]].shape[1] for n in nodes if n.op_type in ("MatMul", "Gemm")]


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_q_k_and_v_become_linears_of_their_own(form: str) -> None:
    cut = split_packed(packed(form))
    assert linears(cut)[:3] == ["qkv.0", "qkv.1", "qkv.2"]
    assert "qkv" not in linears(cut)
    assert widths(cut) == [64, 64, 64]


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_every_value_is_the_same(form: str) -> None:
    model = packed(form)
    feeds = {"x": whole(2, 7, 64)}
    np.testing.assert_array_equal(
        run_ort(split_packed(model), feeds)[0], run_ort(model, feeds)[0], strict=True
    )


@pytest.mark.parametrize("form", PACKED_FORMS)
def test_the_result_is_valid_and_in_normal_form(form: str) -> None:
    cut = split_packed(packed(form))
    onnx.checker.check_model(cut, full_check=True)
    assert normalize(cut).SerializeToString() == cut.SerializeToString()
    assert split_packed(cut).SerializeToString() == cut.SerializeToString()


@pytest.mark.parametrize("form", ["split", "slices"])
def test_groups_may_be_narrower_than_q(form: str) -> None:
    model, feeds = packed(form, (64, 32, 32)), {"x": whole(3, 5, 64)}
    cut = split_packed(model)
    assert widths(cut) == [64, 32, 32]
    np.testing.assert_array_equal(run_ort(cut, feeds)[0], run_ort(model, feeds)[0])


def test_a_graph_without_packed_linears_stays_as_it_is() -> None:
    model = encoder()
    assert split_packed(model).SerializeToString() == model.SerializeToString()


def gated(bounds: str, width: int = 48, *, other_reader: bool = False) -> onnx.ModelProto:
    """A gated feed-forward block: the halves of one Linear multiply each other."""
    tiny = Tiny()
    made = tiny.op("MatMul", "x", tiny.const("w", whole(32, 2 * width)), name="both")
    ends = [tiny.const(f"end{i}", np.array([i * width])) for i in range(3)]
    axis = tiny.const("axis", np.array([2]))
    if bounds == "computed":
        # As PyTorch's tracer writes chunk.
        size = tiny.op("Gather", tiny.op("Shape", made), tiny.const("last", np.array([2])))
        more = tiny.op("Add", size, tiny.const("one", np.array([1])))
        half = tiny.op("Div", more, tiny.const("halves", np.array([2])))
        double = tiny.op("Mul", half, tiny.const("twice", np.array([2])))
        ends = [ends[0], half, double]
    left = tiny.op("Slice", made, ends[0], ends[1], axis)
    right = tiny.op("Slice", made, ends[1], ends[2], axis)
    product = tiny.op("Mul", tiny.op("Relu", left), right)
    if bounds == "shape kept":
        product = tiny.op("Reshape", tiny.op("Concat", product, product, axis=2), "shape")
        tiny.nodes.append(onnx.helper.make_node("Shape", [made], ["shape"], name="shape"))
        tiny.nodes.sort(key=lambda n: n.op_type == "Reshape")
    if other_reader:
        total = tiny.op("ReduceSum", made, axis, keepdims=1)
        product = tiny.op("Add", product, total)
    tiny.op("Neg", product, out="y")
    return normalize(tiny.build({"x": ["b", "s", 32]}, {"y": ["b", "s", "n"]}))


@pytest.mark.parametrize("bounds", ["constant", "computed", "shape kept"])
def test_a_gated_linear_is_cut_too(bounds: str) -> None:
    model, feeds = gated(bounds), {"x": whole(2, 3, 32)}
    cut = split_packed(model)
    assert linears(cut) == ["both.0", "both.1"]
    assert count(cut, "Slice") == (1 if bounds == "shape kept" else 0)
    np.testing.assert_array_equal(run_ort(cut, feeds)[0], run_ort(model, feeds)[0])


def test_a_linear_that_something_else_reads_stays_whole() -> None:
    assert linears(split_packed(gated("constant", other_reader=True))) == ["both"]


def test_parts_below_sixteen_columns_stay_together() -> None:
    assert linears(split_packed(gated("constant", 15))) == ["both"]
    assert linears(split_packed(gated("constant", 16))) == ["both.0", "both.1"]


def test_a_linear_that_is_an_output_stays_whole() -> None:
    model = gated("constant")
    made = next(n.output[0] for n in model.graph.node if n.name == "both")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(made))
    assert "both" in linears(split_packed(model))


def test_a_cut_along_the_sequence_is_none() -> None:
    tiny = Tiny()
    made = tiny.op("MatMul", "x", tiny.const("w", noise(32, 64)), name="both")
    tiny.nodes.append(onnx.helper.make_node("Split", [made], ["a", "c"], axis=1))
    tiny.op("Add", "a", "c", out="y")
    model = normalize(tiny.build({"x": [2, 6, 32]}, {"y": [2, 3, 64]}))
    assert linears(split_packed(model)) == ["both"]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(16, 21), min_size=2, max_size=4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
    biased=st.booleans(),
)
def test_any_split_gives_the_columns_of_its_part(
    sizes: list[int], batch: int, seed: int, *, biased: bool
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-8, 9, (20, sum(sizes))).astype(np.float32)
    bias = rng.integers(-8, 9, sum(sizes)).astype(np.float32)
    tiny = Tiny()
    made = tiny.op("MatMul", "x", tiny.const("w", weight), name="both")
    made = tiny.op("Add", tiny.const("b", bias), made) if biased else made
    names = [f"part{i}" for i in range(len(sizes))]
    tiny.const("sizes", np.array(sizes))
    tiny.nodes.append(onnx.helper.make_node("Split", [made, "sizes"], names, axis=-1))
    for i, name in enumerate(names):
        tiny.op("Neg", name, out=f"y{i}")
    outputs = {f"y{i}": ["b", 3, size] for i, size in enumerate(sizes)}
    cut = split_packed(normalize(tiny.build({"x": ["b", 3, 20]}, outputs)))  # type: ignore[arg-type]
    x = rng.integers(-8, 9, (batch, 3, 20)).astype(np.float32)
    wanted = np.split(-(x @ weight + bias * biased), np.cumsum(sizes)[:-1], axis=-1)
    assert linears(cut) == [f"both.{i}" for i in range(len(sizes))]
    for found, part in zip(run_ort(cut, {"x": x}), wanted, strict=True):
        np.testing.assert_array_equal(found, part)
