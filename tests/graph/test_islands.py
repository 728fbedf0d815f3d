"""Tensors that float16 cannot hold survive in the FP16 twin, and TensorRT builds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graph.test_half import run_half
from tests.support.attention_block import build, request_for
from tests.support.onnx_tiny import Tiny, constants_of, count, maker_of, noise, run_ort
from trt_int8.calibrate.overflow import peaks_of
from trt_int8.graph.half import to_half
from trt_int8.graph.islands import overflows_of
from trt_int8.graph.normalize import normalize
from trt_int8.spec.shapes import InputShape

WIDTH = 64
X = noise(2, 5, WIDTH, seed=7)


def two_layers(kind: str, large: float = 2e5) -> onnx.ModelProto:
    """X -> Linear -> LayerNorm, with about `large` in between.

    Args:
        kind: where the large tensor is made: by the `gain` of an elementwise node behind the
            Linear, by the `linear` itself and read by another one, or the same with `qdq`.
        large: its size.
    """
    tiny = Tiny()

    def linear(name: str, x: str, gain: float, step: float) -> str:
        weight = noise(WIDTH, WIDTH, seed=len(name)) * gain / WIDTH**0.5
        if kind != "qdq":
            return tiny.op("MatMul", x, tiny.const(f"{name}_w", weight), name=name, out=name)
        scale = np.abs(weight).max(axis=0) / np.float32(127)
        names = [
            tiny.const(f"{name}_w", np.rint(weight / scale).astype(np.int8)),
            tiny.const(f"{name}_s", scale),
            tiny.const(f"{name}_z", np.zeros(WIDTH, np.int8)),
        ]
        dequantized = tiny.op("DequantizeLinear", *names, axis=1)
        return tiny.op("MatMul", tiny.pair(x, step), dequantized, name=name, out=name)

    first = linear("first", "x", 1.0 if kind == "gain" else large, 0.03)
    if kind == "gain":
        first = tiny.op("Mul", first, tiny.const("gain", large), name="grow", out="large")
    else:
        first = tiny.op(
            "Add", linear("second", first, 1.0, large / 32), first, name="sum", out="large"
        )
    ones = [tiny.const("g", np.ones(WIDTH, "f4")), tiny.const("b", np.zeros(WIDTH, "f4"))]
    normed = tiny.op("LayerNormalization", first, *ones, name="norm", out="normed")
    tiny.op("MatMul", normed, tiny.const("w", noise(WIDTH, 3)), name="head", out="y")
    # From opset 19 on ONNX's reference knows quantizers.
    return normalize(tiny.build({"x": ["b", "s", WIDTH]}, {"y": ["b", "s", 3]}, opset=19))


def twin(model: onnx.ModelProto) -> onnx.ModelProto:
    half = to_half(model, peaks_of(model, [{"x": X}]))
    onnx.checker.check_model(half, full_check=True)
    return half


KINDS = ("gain", "linear", "qdq")


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_beyond_float16_breaks_the_naive_twin_and_not_ours(kind: str) -> None:
    model = two_layers(kind)
    expected = run_ort(model, {"x": X})[0]
    with np.errstate(all="ignore"):
        assert not np.isfinite(run_half(to_half(model), {"x": X})[0]).all()
    # The head sums 64 products of numbers around 1, each rounded to 11 bits, twice.
    for run in (run_half, run_ort):
        found = run(twin(model), {"x": X})[0]
        np.testing.assert_allclose(found, expected, atol=64 * 4 * 2.0**-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sm", [75, 80])
def test_tensorrt_builds_the_twin_with_its_islands(kind: str, sm: int, tmp_path: Path) -> None:
    onnx.save(twin(two_layers(kind)), str(tmp_path / "m.onnx"))
    sizes = [(1, 3, WIDTH), (2, 5, WIDTH), (2, 9, WIDTH)]
    shape = InputShape(name="x", min=sizes[0], opt=sizes[1], max=sizes[2])
    request = request_for(tmp_path / "m.onnx", sm)
    build({"m": request.model_copy(update={"profiles": ((shape,),)})})
    assert Path(request.engine_path).stat().st_size > 0


def test_small_tensors_change_nothing() -> None:
    model = two_layers("linear", large=20.0)
    assert twin(model).SerializeToString() == to_half(model).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
def test_no_matmul_runs_in_float32(kind: str) -> None:
    """TensorRT refuses one on SM75."""
    half = onnx.shape_inference.infer_shapes(twin(two_layers(kind)), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    products = [node for node in half.graph.node if node.op_type == "MatMul"]
    assert {types[node.output[0]] for node in products} == {onnx.TensorProto.FLOAT16}


def test_the_quantizers_of_a_scaled_matmul_stay_next_to_it() -> None:
    """A Mul between DequantizeLinear and matmul would cost the INT8 kernel."""
    half = twin(two_layers("qdq"))
    for name in ("first", "second"):
        (product,) = [node for node in half.graph.node if node.name == name]
        casts = [maker_of(half, value) for value in product.input]
        assert [node.op_type for node in casts] == ["Cast", "Cast"]
        makers = [maker_of(half, node.input[0]).op_type for node in casts]
        assert makers == ["DequantizeLinear", "DequantizeLinear"]
    assert count(half, "QuantizeLinear") == count(two_layers("qdq"), "QuantizeLinear")


def test_scales_change_by_powers_of_two_alone() -> None:
    model = two_layers("qdq")
    (scale,) = [a for a in constants_of(model).values() if a.shape == (WIDTH,) and a.max() > 99]
    used = [a for a in constants_of(twin(model)).values() if a.shape == (WIDTH,)]
    ratios = [np.asarray(a / scale, np.float64) for a in used if a.dtype == np.float32 and a.all()]
    powers = [np.log2(ratio) for ratio in ratios]
    exact = [float(p[0]) for p in powers if (p == np.rint(p[0])).all()]
    assert min(exact) < 0


def test_an_output_that_is_too_large_keeps_its_name_and_value() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.const("w", noise(WIDTH, WIDTH) * 1e5), name="m", out="y")
    model = normalize(tiny.build({"x": ["b", "s", WIDTH]}, {"y": ["b", "s", WIDTH]}))
    half = twin(model)
    assert [output.name for output in half.graph.output] == ["y"]
    expected = run_ort(model, {"x": X})[0]
    found = run_ort(half, {"x": X})[0]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_a_gemm_with_a_bias_is_scaled_with_it() -> None:
    tiny = Tiny()
    weight, bias = tiny.const("w", noise(WIDTH, 8) * 1e5), tiny.const("c", noise(8) * 3e5)
    large = tiny.op("Gemm", "x", weight, bias, name="m")
    ones = [tiny.const("g", np.ones(8, "f4")), tiny.const("b", np.zeros(8, "f4"))]
    tiny.op("LayerNormalization", large, *ones, out="y")
    model = normalize(tiny.build({"x": ["b", WIDTH]}, {"y": ["b", 8]}))
    feeds = {"x": X[0]}
    half = to_half(model, peaks_of(model, [feeds]))
    with np.errstate(all="ignore"):
        assert not np.isfinite(run_half(to_half(model), feeds)[0]).all()
    np.testing.assert_allclose(run_ort(half, feeds)[0], run_ort(model, feeds)[0], atol=0.01)


def test_an_input_that_is_too_large_is_read_in_float32() -> None:
    tiny = Tiny()
    tiny.op(
        "MatMul",
        tiny.op("Mul", "x", tiny.const("c", 1e-5)),
        tiny.const("w", noise(WIDTH, 3)),
        out="y",
    )
    model = normalize(tiny.build({"x": ["b", "s", WIDTH]}, {"y": ["b", "s", 3]}))
    feeds = {"x": X * np.float32(1e5)}
    half = to_half(model, peaks_of(model, [feeds]))
    np.testing.assert_allclose(run_half(half, feeds)[0], run_ort(model, feeds)[0], atol=0.1)
    with np.errstate(all="ignore"):
        assert not np.isfinite(run_half(to_half(model), feeds)[0]).all()


def test_both_operands_too_large_are_both_divided() -> None:
    tiny = Tiny()
    large = tiny.op("Mul", "x", tiny.const("c", 1e5), out="large")
    turned = tiny.op("Transpose", large, perm=[0, 2, 1])
    scores = tiny.op("MatMul", large, turned, name="scores")
    tiny.op("Mul", scores, tiny.const("d", 1e-11), out="y")
    model = normalize(tiny.build({"x": ["b", "s", WIDTH]}, {"y": ["b", "s", "s"]}))
    expected = run_ort(model, {"x": X})[0]
    found = run_ort(twin(model), {"x": X})[0]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@settings(max_examples=12, deadline=None)
@given(st.floats(1e4, 1e9))
def test_the_twin_is_right_however_large_the_tensor_is(large: float) -> None:
    model = two_layers("gain", large)
    expected = run_ort(model, {"x": X})[0]
    np.testing.assert_allclose(run_ort(twin(model), {"x": X})[0], expected, atol=0.13)


def test_each_tensor_is_listed_with_the_nodes_around_it() -> None:
    model = two_layers("linear")
    peaks = peaks_of(model, [{"x": X}])
    found = {each.tensor: each for each in overflows_of(model, peaks)}
    assert set(found) == {"first", "second", "large"}
    assert found["first"].scaled_nodes == ("first", "second")
    assert found["first"].float_nodes == ("sum",)
    assert found["large"].float_nodes == ("sum", "norm")
    assert found["large"].peak == peaks["large"] > 65504


def test_nothing_is_listed_where_everything_fits() -> None:
    assert overflows_of(two_layers("linear", 20.0), {"first": 99.0}) == ()


def test_a_sum_of_many_small_products_that_is_too_large_is_scaled() -> None:
    tiny = Tiny()
    weight = np.full((WIDTH, 3), 80.0, np.float32)
    tiny.op("MatMul", "x", tiny.const("w", weight), name="m", out="y")
    model = normalize(tiny.build({"x": ["b", "s", WIDTH]}, {"y": ["b", "s", 3]}))
    feeds = {"x": np.full((1, 2, WIDTH), 90.0, np.float32)}
    half = to_half(model, peaks_of(model, [feeds]))
    with np.errstate(all="ignore"):
        assert not np.isfinite(run_half(to_half(model), feeds)[0]).all()
    np.testing.assert_array_equal(run_half(half, feeds)[0], 64 * 80.0 * 90.0)
