"""Q/DQ as other tools write it: what becomes of it, and what is refused with which mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_tiny import (
    Array,
    Tiny,
    constants_of,
    count,
    f32,
    maker_of,
    noise,
    run_ort,
)
from trt_int8.errors import GraphError
from trt_int8.graph.insert import strip_qdq
from trt_int8.graph.normalize import normalize

K, N = 7, 5
LIMITS = {"i1": (-128, 127), "u1": (0, 255)}


def same_bits(model: onnx.ModelProto, **feeds: Array) -> onnx.ModelProto:
    """The normal form, after checking that it computes the same."""
    normal = normalize(model)
    onnx.checker.check_model(normal, full_check=True)
    given = feeds or {"x": noise(3, K, scale=4)}
    np.testing.assert_array_equal(run_ort(normal, given)[0], run_ort(model, given)[0])
    return normal


def params(tiny: Tiny, scale: Any, zero: int, kind: str) -> list[str]:
    steps, number = f32(scale), len(tiny.constants)
    points = np.full(steps.shape, zero, kind)
    return [tiny.const(f"s{number}", steps), tiny.const(f"z{number}", points)]


def activation(zero: int, kind: str) -> onnx.ModelProto:
    tiny = Tiny()
    given = params(tiny, 0.05, zero, kind)
    codes = tiny.op("QuantizeLinear", "x", *given, name="quant")
    tiny.op("Relu", tiny.op("DequantizeLinear", codes, *given), out="y")
    return tiny.build({"x": [3, K]}, {"y": [3, K]})


def test_uint8_with_zero_point_128_becomes_int8() -> None:
    normal = same_bits(activation(128, "u1"))
    assert {a.dtype.name for a in constants_of(normal).values()} == {"float32", "int8"}


@pytest.mark.parametrize(
    ("zero", "kind"), [(0, "u1"), (127, "u1"), (129, "u1"), (3, "i1"), (-128, "i1")]
)
def test_an_activation_of_any_other_zero_point_is_refused_with_the_settings_to_use(
    zero: int, kind: str
) -> None:
    with pytest.raises(GraphError, match=r"'quant' .*ActivationSymmetric and WeightSymmetric"):
        normalize(activation(zero, kind))


def test_one_q_with_two_kinds_of_dq_is_left_and_refused() -> None:
    tiny = Tiny()
    codes = tiny.op("QuantizeLinear", "x", *params(tiny, 0.05, 128, "u1"), name="quant")
    left = tiny.op("DequantizeLinear", codes, *params(tiny, 0.05, 128, "u1"))
    right = tiny.op("DequantizeLinear", codes, *params(tiny, 0.05, 100, "u1"))
    tiny.op("Add", left, right, out="y")
    with pytest.raises(GraphError, match=r"'quant' .* is uint8"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}))


def test_the_number_of_refused_nodes_is_said() -> None:
    tiny = Tiny()
    value = "x"
    for number in range(3):
        given = params(tiny, 0.05, number + 1, "i1")
        value = tiny.op("DequantizeLinear", tiny.op("QuantizeLinear", value, *given), *given)
        value = tiny.op("Relu", value)
    tiny.op("Neg", value, out="y")
    with pytest.raises(GraphError, match=r"not 0 \(1\) \(and 2 more such nodes\)"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("zero", "kind"), [(128, "u1"), (9, "i1"), (120, "u1")])
def test_weight_codes_of_another_zero_point_become_int8_if_they_fit(
    zero: int, kind: str, per_channel: bool
) -> None:
    tiny = Tiny()
    centered = np.random.default_rng(1).integers(-100, 101, (K, N))
    stored = tiny.const("w", (centered + zero).astype(kind))
    given = params(tiny, np.full(N, 0.02) if per_channel else 0.02, zero, kind)
    tiny.op("MatMul", "x", tiny.op("DequantizeLinear", stored, *given, axis=1), out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    codes = [a for a in constants_of(normal).values() if a.shape == (K, N)]
    assert [a.dtype.name for a in codes] == ["int8"]
    np.testing.assert_array_equal(codes[0], centered)


def test_weight_codes_that_do_not_fit_are_refused() -> None:
    tiny = Tiny()
    stored = tiny.const("w", np.full((K, N), 200, "u1"))
    real = tiny.op("DequantizeLinear", stored, *params(tiny, 0.02, 50, "u1"), name="weight")
    tiny.op("MatMul", "x", real, out="y")
    with pytest.raises(GraphError, match=r"'weight' \(DequantizeLinear\) is uint8"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))


@pytest.mark.parametrize(("zero", "kind"), [(0, "i1"), (7, "i1"), (200, "u1")])
def test_codes_of_a_norm_become_float(zero: int, kind: str) -> None:
    tiny = Tiny()
    low, high = LIMITS[kind]
    stored = tiny.const("gain", np.random.default_rng(2).integers(low, high, K).astype(kind))
    gain = tiny.op("DequantizeLinear", stored, *params(tiny, 0.02, zero, kind))
    tiny.op("LayerNormalization", "x", gain, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert [n.op_type for n in normal.graph.node] == ["LayerNormalization"]


def test_a_float_constant_quantized_twice_becomes_one_float_constant() -> None:
    tiny = Tiny()
    stored = tiny.const("gain", np.random.default_rng(2).integers(0, 255, K).astype("u1"))
    real = tiny.op("Identity", tiny.op("DequantizeLinear", stored, *params(tiny, 0.02, 5, "u1")))
    given = params(tiny, 0.03, -4, "i1")
    again = tiny.op("DequantizeLinear", tiny.op("QuantizeLinear", real, *given), *given)
    tiny.op("Mul", "x", again, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert [n.op_type for n in normal.graph.node] == ["Mul"]


def test_a_table_that_fits_stays_int8_behind_the_dequantizer() -> None:
    tiny = Tiny()
    table = tiny.const("table", np.random.default_rng(0).integers(-90, 90, (9, K)).astype("i1"))
    rows = tiny.const("rows", np.array([1, 8, 4]))
    picked = tiny.op("Gather", table, rows)
    real = tiny.op("DequantizeLinear", picked, *params(tiny, 0.1, 0, "i1"))
    tiny.op("Add", "x", real, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    (gather,) = [n for n in normal.graph.node if n.op_type == "Gather"]
    assert maker_of(normal, gather.input[0]).op_type == "DequantizeLinear"


def test_an_asymmetric_table_becomes_float() -> None:
    tiny = Tiny()
    table = tiny.const("table", np.random.default_rng(0).integers(0, 255, (9, K)).astype("u1"))
    rows = tiny.const("rows", np.array([1, 8, 4]))
    real = tiny.op("DequantizeLinear", table, *params(tiny, 0.1, 30, "u1"))
    tiny.op("Add", "x", tiny.op("Gather", real, rows), out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert count(normal, "DequantizeLinear") == 0


@pytest.mark.parametrize("mover", ["Transpose", "Relu"])
def test_codes_are_dequantized_in_front_of_what_they_pass(mover: str) -> None:
    tiny = Tiny()
    given = params(tiny, 0.05, 0, "i1")
    codes = tiny.op("QuantizeLinear", "x", *given)
    attributes: dict[str, Any] = {"perm": [1, 0]} if mover == "Transpose" else {}
    real = tiny.op("DequantizeLinear", tiny.op(mover, codes, **attributes), *given)
    tiny.op("Neg", real, out="y")
    shape: list[int | str] = [K, 3] if mover == "Transpose" else [3, K]
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": shape}))
    order = [n.op_type for n in normal.graph.node]
    assert order == ["QuantizeLinear", "DequantizeLinear", mover, "Neg"]


def test_a_moved_dequantizer_leaves_the_name_of_an_output() -> None:
    tiny = Tiny()
    given = params(tiny, 0.05, 0, "i1")
    turned = tiny.op("Transpose", tiny.op("QuantizeLinear", "x", *given), perm=[1, 0])
    tiny.op("DequantizeLinear", turned, *given, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [K, 3]}))
    assert [value.name for value in normal.graph.output] == ["y"]
    assert [n.op_type for n in normal.graph.node][-1] == "Transpose"


def test_a_relu_of_codes_with_a_zero_point_is_not_one_of_values() -> None:
    tiny = Tiny()
    given = params(tiny, 0.05, 7, "i1")
    codes = tiny.op("Relu", tiny.op("QuantizeLinear", "x", *given))
    tiny.op("Neg", tiny.op("DequantizeLinear", codes, *given), out="y")
    with pytest.raises(GraphError, match="is not half of a Q/DQ pair"):
        strip_qdq(tiny.build({"x": [3, K]}, {"y": [3, K]}))


def test_codes_that_two_ways_lead_from_are_dequantized_once() -> None:
    tiny = Tiny()
    given = params(tiny, 0.05, 0, "i1")
    codes = tiny.op("QuantizeLinear", "x", *given)
    turned = tiny.op("DequantizeLinear", tiny.op("Transpose", codes, perm=[1, 0]), *given)
    plain = tiny.op("DequantizeLinear", codes, *given)
    tiny.op("MatMul", plain, turned, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, 3]}))
    assert (count(normal, "QuantizeLinear"), count(normal, "DequantizeLinear")) == (1, 1)


@pytest.mark.parametrize("domain", ["com.microsoft", "trt"])
def test_pairs_of_other_domains_become_those_of_onnx(domain: str) -> None:
    model = activation(0, "i1")
    expected = normalize(model).SerializeToString()
    for node in model.graph.node:
        if node.op_type.endswith("uantizeLinear"):
            node.domain = domain
            if domain == "trt":
                node.op_type = f"TRT_INT8{node.op_type}"
    model.opset_import.append(helper.make_opsetid(domain, 1))
    found = normalize(model)
    del found.opset_import[1:]
    assert found.SerializeToString() == expected


@pytest.mark.parametrize(
    "kind", ["TRT_FP8QuantizeLinear", "TRT_INT4DequantizeLinear", "QLinearAdd", "MatMulNBits"]
)
def test_operators_of_other_number_formats_are_refused_by_name(kind: str) -> None:
    tiny = Tiny()
    tiny.nodes.append(helper.make_node(kind, ["x"], ["q"], name="odd", domain="trt"))
    tiny.op("Relu", "q", out="y")
    model = tiny.build({"x": [3, K]}, {"y": [3, K]})
    model.opset_import.append(helper.make_opsetid("trt", 1))
    with pytest.raises(GraphError, match=f"'odd' .* is a {kind}"):
        normalize(model)


@pytest.mark.parametrize("kind", ["INT4", "FLOAT8E4M3FN"])
def test_codes_of_other_types_are_refused(kind: str) -> None:
    tiny = Tiny()
    number = getattr(TensorProto, kind)
    tiny.const("s", f32(0.02))
    tiny.op("DequantizeLinear", "w", "s", "z", name="odd", out="r")
    tiny.op("MatMul", "x", "r", out="y")
    model = tiny.build({"x": [3, K]}, {"y": [3, N]}, opset=21)
    for name, shape in (("w", [K, N]), ("z", [])):
        size = int(np.prod(shape)) if shape else 1
        model.graph.initializer.append(helper.make_tensor(name, number, shape, [1] * size))
    with pytest.raises(GraphError, match=r"'odd' .* is (int4|float8_e4m3fn).*; wanted int8"):
        normalize(model)


def half_model(opset: int = 19) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """One Linear in float16, scales included, and the same in float32."""
    built = []
    for kind, number in (("f2", TensorProto.FLOAT16), ("f4", TensorProto.FLOAT)):
        tiny = Tiny()
        half = {"w": noise(K, N).astype("f2"), "a": np.float16(0.03), "b": np.full(N, 0.02, "f2")}
        for name, value in half.items():
            tiny.const(name, np.asarray(value).astype(kind))
        zero, zeros = tiny.const("za", np.int8(0)), tiny.const("zb", np.zeros(N, "i1"))
        source = tiny.op("Cast", "x", to=number)
        codes = tiny.op("QuantizeLinear", source, "a", zero)
        real = tiny.op("DequantizeLinear", codes, "a", zero)
        weight = tiny.op("QuantizeLinear", "w", "b", zeros, axis=1)
        weight = tiny.op("DequantizeLinear", weight, "b", zeros, axis=1)
        tiny.op("Cast", tiny.op("MatMul", real, weight), to=TensorProto.FLOAT, out="y")
        built.append(tiny.build({"x": [3, K]}, {"y": [3, N]}, opset=opset))
    return built[0], built[1]


def test_scales_and_weights_in_half_precision_become_float32() -> None:
    half, single = half_model()
    feeds = {"x": noise(3, K)}
    normal = normalize(half)
    assert {a.dtype.name for a in constants_of(normal).values()} == {"float32", "int8"}
    assert count(normal, "Cast") <= 1
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(normalize(single), feeds)[0])
    # Half arithmetic differs by its own rounding: at a tie by one code times one weight.
    np.testing.assert_allclose(run_ort(normal, feeds)[0], run_ort(half, feeds)[0], atol=0.1)


def test_the_float_twin_of_a_half_file_has_its_float_weights() -> None:
    half, _ = half_model()
    stripped = normalize(strip_qdq(half))
    (weight,) = constants_of(stripped).values()
    np.testing.assert_array_equal(weight, noise(K, N).astype("f2").astype("f4"))


def test_casts_from_float32_to_float32_do_not_keep_pairs_apart() -> None:
    tiny = Tiny()
    source = tiny.op("Tanh", "x")
    left = tiny.pair(tiny.op("Cast", source, to=TensorProto.FLOAT), 0.03)
    tiny.op("Sub", left, tiny.op("Neg", tiny.pair(source, 0.03)), out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert (count(normal, "Cast"), count(normal, "QuantizeLinear")) == (0, 1)


def test_casts_from_integers_stay() -> None:
    tiny = Tiny()
    number = tiny.op("Cast", tiny.op("Mul", "x", tiny.const("two", np.int64(2))), to=1)
    tiny.op("Cast", tiny.op("Relu", number), to=TensorProto.INT64, out="y")
    model = tiny.build({"x": [3]}, {"y": [3]}, dtype=TensorProto.INT64)
    assert count(normalize(model), "Cast") == 2


def test_an_output_type_of_int8_stands_for_a_zero_point() -> None:
    tiny = Tiny()
    scale = tiny.const("s", f32(0.05))
    codes = tiny.op("QuantizeLinear", "x", scale, output_dtype=TensorProto.INT8)
    tiny.op("Relu", tiny.op("DequantizeLinear", codes, scale), out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}, opset=21))
    zero = constants_of(normal)[maker_of(normal, normal.graph.node[0].output[0]).input[2]]
    assert zero.dtype == np.int8


def test_a_pair_in_front_of_an_output_stays() -> None:
    tiny = Tiny()
    given = params(tiny, 0.05, 128, "u1")
    codes = tiny.op("QuantizeLinear", tiny.op("Tanh", "x"), *given)
    tiny.op("DequantizeLinear", codes, *given, out="y")
    normal = same_bits(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert [n.op_type for n in normal.graph.node][1:] == ["QuantizeLinear", "DequantizeLinear"]


def old_model(opset: int) -> onnx.ModelProto:
    """Operators whose meaning or form changed with opset 13."""
    tiny = Tiny()
    value = tiny.op("Unsqueeze", "x", axes=[1])
    value = tiny.op("Softmax", tiny.op("Squeeze", value, axes=[1]), axis=1)
    given = params(tiny, 1 / 127, 0, "i1")
    value = tiny.op("DequantizeLinear", tiny.op("QuantizeLinear", value, *given), *given)
    value = tiny.op("MatMul", value, tiny.const("w", noise(K, N)))
    tiny.op("ReduceSum", value, axes=[-1], keepdims=1, out="y")
    return tiny.build({"x": [3, K]}, {"y": [3, 1]}, opset=opset)


@pytest.mark.parametrize("opset", [10, 11, 12])
def test_an_older_opset_is_converted_and_computes_the_same(opset: int) -> None:
    normal = same_bits(old_model(opset))
    assert normal.opset_import[0].version == 13


def test_an_opset_that_cannot_be_converted_is_refused() -> None:
    tiny = Tiny()
    tiny.op("NoSuchOperator", "x", out="y")
    with pytest.raises(GraphError, match="uses opset 12, and ONNX cannot convert it"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}, opset=12))


def test_a_model_without_an_opset_is_refused() -> None:
    model = activation(0, "i1")
    del model.opset_import[:]
    with pytest.raises(GraphError, match="uses opset 0"):
        normalize(model)
