"""Q/DQ of the upper rungs: one scale per tensor, shared scales, tables, residual arms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.blocks import encoder
from tests.support.onnx_tiny import Tiny, constants_of, count, f32, maker_of, noise, run_ort
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
from trt_int8.graph.insert import insert_qdq, strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import Recipe, load_recipe


def ranges(plan: OnnxPlan, **amax: float) -> dict[str, TensorRange]:
    return {t: TensorRange(amax=amax.get(t, 4.0), peak=9.0) for t in plan.tensors}


def quantized(model: onnx.ModelProto, name: str, **changes: object) -> onnx.ModelProto:
    plan = plan_onnx(model, load_recipe(name).model_copy(update=changes))
    return insert_qdq(model, plan, ranges(plan))


def test_full_puts_one_pair_behind_each_norm_and_no_second_one_on_its_skip_arm() -> None:
    model = encoder("post", 1)
    result = quantized(model, "full")
    for norm in ("start", "0.norm1"):
        readers = [n for n in result.graph.node if norm in n.input]
        assert [n.op_type for n in readers] == ["QuantizeLinear"]
    residual = next(n for n in result.graph.node if n.name == "0.sum1")
    assert maker_of(result, residual.input[1]).op_type == "DequantizeLinear"
    assert maker_of(result, residual.input[0]).op_type == "Add"


def test_without_residual_the_skip_arm_reads_the_norm_itself() -> None:
    result = quantized(encoder("post", 1), "linear+attention")
    assert next(n for n in result.graph.node if n.name == "0.sum1").input[1] == "start"


def test_a_weight_per_tensor_has_one_scale_of_its_largest_value() -> None:
    tiny = Tiny()
    weight = noise(19, 17)
    tiny.op("MatMul", "x", tiny.const("w", weight), name="linear", out="y")
    model = normalize(tiny.build({"x": [3, 19]}, {"y": [3, 17]}))
    result = quantized(model, "linear", weight_scales="tensor")
    dequantize = maker_of(result, maker_of(result, "y").input[1])
    stored = constants_of(result)
    codes, scale, zero = (stored[name] for name in dequantize.input)
    assert scale.shape == zero.shape == ()
    assert scale == np.float32(np.abs(weight).max()) / np.float32(127)
    wanted = np.clip(np.rint(weight / scale), -128, 127)
    np.testing.assert_array_equal(codes, wanted)
    onnx.checker.check_model(result, full_check=True)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_per_tensor_computes_with_its_rounded_weight(turned: int) -> None:
    tiny = Tiny()
    weight = noise(17, 19)
    stored = weight if turned else np.ascontiguousarray(weight.T)
    tiny.op("Gemm", "x", tiny.const("w", stored), transB=turned, out="y")
    model = normalize(tiny.build({"x": [3, 19]}, {"y": [3, 17]}))
    x = np.rint(noise(3, 19) * 8) / 8
    plan = plan_onnx(model, Recipe(weight_scales="tensor"))
    result = insert_qdq(model, plan, {"x": TensorRange(amax=127 / 8, peak=127 / 8)})
    scale = np.float32(np.abs(weight).max()) / np.float32(127)
    wanted = x @ (np.rint(weight / scale) * scale).T
    found = run_ort(result, {"x": f32(x)})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def scales_behind(model: onnx.ModelProto, nodes: list[str], index: int) -> list[float]:
    stored = constants_of(model)
    found = []
    for node in model.graph.node:
        if node.name in nodes:
            dequantize = maker_of(model, node.input[index])
            found.append(float(stored[dequantize.input[1]].max()))
    return found


def test_q_k_and_v_of_ft2_share_one_weight_scale_and_others_do_not() -> None:
    model = encoder("post", 1)
    result = quantized(model, "ft2")
    assert len(set(scales_behind(result, ["0.q", "0.k", "0.v"], 1))) == 1
    assert len(set(scales_behind(result, ["0.q", "0.o"], 1))) == 2
    stored = constants_of(model)
    largest = max(np.abs(stored[f"0.{n}_w"]).max() for n in "qkv")
    assert scales_behind(result, ["0.q"], 1) == [np.float32(largest) / np.float32(127)]


def test_tensors_that_share_a_scale_get_the_largest_of_their_ranges() -> None:
    model = encoder("post", 1)
    plan = plan_onnx(model, load_recipe("ft2"))
    (group,) = [group for group in plan.same_scale if len(group) == 3]
    changed = ranges(plan) | {group[1]: TensorRange(amax=25.4, peak=30.0)}
    result = insert_qdq(model, plan, changed)
    stored = constants_of(result)
    pairs = [n for n in result.graph.node if n.op_type == "QuantizeLinear"]
    found = {n.input[0]: float(stored[n.input[1]]) for n in pairs}
    assert [found[name] for name in group] == [pytest.approx(0.2)] * 3
    assert found["start"] == pytest.approx(4 / 127)


def test_between_an_attention_and_its_linear_is_one_pair_by_the_larger_range() -> None:
    model = encoder("post", 1)
    plan = plan_onnx(model, load_recipe("linear+attention"))
    (group,) = plan.same_scale
    changed = ranges(plan) | {group[1]: TensorRange(amax=25.4, peak=30.0)}
    result = insert_qdq(model, plan, changed)
    stored = constants_of(result)
    pairs = [n for n in result.graph.node if n.op_type == "QuantizeLinear"]
    found = {n.input[0]: float(stored[n.input[1]]) for n in pairs if n.input[0] in group}
    assert found == {group[1]: pytest.approx(0.2)}


def lookup(rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> onnx.ModelProto:
    tiny = Tiny()
    ids = tiny.op("Cast", "x", to=TensorProto.INT64)
    tiny.op("Gather", tiny.const("table", rows), ids, name="lookup", out="found")
    tiny.op("MatMul", "found", tiny.const("w", noise(32, 16)), out="y")
    return normalize(tiny.build({"x": [9]}, {"y": [9, 16], "found": [9, 32]}))


def test_a_table_is_stored_as_int8_with_one_scale_per_row() -> None:
    rows = noise(50, 32) * np.geomspace(0.01, 100, 50, dtype=np.float32)[:, None]
    result = quantized(lookup(rows), "linear", embeddings=True)
    stored = constants_of(result)
    dequantize = maker_of(result, next(n for n in result.graph.node if n.name == "lookup").input[0])
    assert dequantize.op_type == "DequantizeLinear"
    assert stored[dequantize.input[0]].dtype == np.int8
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    np.testing.assert_array_equal(stored[dequantize.input[1]], scale)
    places = np.array([0, 49, 3, 3, 7, 8, 20, 33, 48])
    found = run_ort(result, {"x": f32(places)})[1]
    wanted = (np.rint(rows / scale[:, None]) * scale[:, None])[places]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert not any(a.dtype == np.float32 and a.shape == (50, 32) for a in stored.values())


def test_a_row_of_zeros_stays_zero() -> None:
    rows = noise(50, 32)
    rows[3] = 0
    result = quantized(lookup(rows), "linear", embeddings=True)
    assert not run_ort(result, {"x": f32(np.full(9, 3))})[1].any()


def test_a_table_that_two_lookups_read_is_stored_once() -> None:
    tiny = Tiny()
    ids = tiny.op("Cast", "x", to=TensorProto.INT64)
    table = tiny.const("table", noise(50, 32))
    first = tiny.op("Gather", table, ids)
    second = tiny.op("Gather", table, tiny.op("Neg", ids))
    joined = tiny.op("Add", first, second)
    tiny.op("MatMul", joined, tiny.const("w", noise(32, 16)), out="y")
    model = normalize(tiny.build({"x": [9]}, {"y": [9, 16]}))
    result = quantized(model, "linear", embeddings=True)
    assert count(result, "Gather") == 2
    assert sum(a.shape == (50, 32) for a in constants_of(result).values()) == 1


@pytest.mark.parametrize("name", ["full", "ft2", "ft3"])
def test_taking_the_pairs_out_again_gives_nearly_the_float_graph(name: str) -> None:
    model, feeds = encoder("post", 1), {"x": noise(2, 5, 64)}
    result = quantized(model, name)
    stripped = run_ort(strip_qdq(result), feeds)[0]
    exact = run_ort(model, feeds)[0]
    assert 0 < np.abs(stripped - exact).max() < 0.1
