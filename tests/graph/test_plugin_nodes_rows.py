"""LayerNorm and GELU with their Q as plugin nodes: what is matched, and that not a bit changes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.support.onnx_tiny import Tiny, attribute, constants_of, noise, run_ort
from tests.support.plugin_graphs import HIDDEN
from tests.support.plugin_rows import GELUS, gelu_twin, norm_twin, rows
from trt_int8.graph import plugin_nodes
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.graph.plugin_nodes import FusedGraph, fuse_plugins
from trt_int8.graph.plugin_variants import inline_plugins
from trt_int8.graph.plugins.outline import PluginSite, sweep
from trt_int8.graph.plugins.turns import undo_adapters
from trt_int8.graph.plugins.walk import NoPluginError
from trt_int8.spec.plugins import PluginFamily

SWITCHES = tuple(product((False, True), repeat=4))


def names(found: FusedGraph) -> list[str]:
    return [signature.name for _, signature in found.calls]


def node_of(found: FusedGraph) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [n for n in found.model.graph.node if n.domain == "trt_int8"]
    return nodes[0]


def same_bits(twin: onnx.ModelProto, found: FusedGraph, sequence: int = 5) -> None:
    feeds = rows(twin, sequence=sequence)
    want, have = run_ort(twin, feeds)[0], run_ort(found.model, feeds)[0]
    assert np.ptp(want) > 0.5
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(("bias", "residual", "half", "total"), SWITCHES)
def test_every_form_of_a_layernorm_becomes_one_node_that_computes_the_same_bits(
    bias: bool, residual: bool, half: bool, total: bool
) -> None:
    twin = norm_twin(bias=bias, residual=residual, half=half, total=total)
    found = fuse_plugins(twin, ["layernorm"])
    # Without bias and residual the sum is x itself, which is there already.
    parts = {"bias": bias, "no_residual": not residual, "half": half}
    parts["sum"] = total and (bias or residual)
    wanted = [part for part, there in parts.items() if there]
    assert names(found) == ["_".join(["skip_layernorm_quant", *wanted])]
    onnx.checker.check_model(found.model, full_check=True)
    same_bits(twin, found)


def test_the_node_of_a_layernorm_carries_scale_and_epsilon() -> None:
    node = node_of(fuse_plugins(norm_twin(), ["layernorm"]))
    assert attribute(node, "output_scale") == pytest.approx(0.03)
    assert attribute(node, "epsilon") == pytest.approx(1e-6)
    assert [attribute(node, f"{name}_scale") for name in ("x", "residual")] == [1.0, 1.0]


def test_a_residual_that_is_broadcast_is_no_input_of_the_node() -> None:
    twin = norm_twin(bias=False)
    dim = next(given for given in twin.graph.input if given.name == "r").type.tensor_type.shape.dim
    dim[0].Clear()
    dim[0].dim_value = 1
    del twin.graph.value_info[:]
    found = fuse_plugins(twin, ["layernorm"])
    assert names(found) == ["skip_layernorm_quant_no_residual"]


def test_a_bias_whose_sum_something_else_reads_is_added_outside() -> None:
    twin = norm_twin()
    biased = next(node for node in twin.graph.node if node.name == "biased")
    twin.graph.output.append(onnx.ValueInfoProto(name=biased.output[0]))
    found = fuse_plugins(twin, ["layernorm"])
    assert names(found) == ["skip_layernorm_quant"]
    same_bits(twin, found)


def test_int8_inputs_go_into_the_node_with_their_scale() -> None:
    tiny = Tiny()
    total = tiny.op("Add", tiny.pair("x", 0.02), tiny.pair("r", 0.04), name="sum")
    gamma, beta = tiny.const("gamma", 1 + noise(HIDDEN) / 5), tiny.const("beta", noise(HIDDEN))
    normed = tiny.op("LayerNormalization", total, gamma, beta, axis=-1)
    tiny.op("Neg", tiny.pair(normed, 0.03), out="y")
    axes: list[int | str] = ["batch", "sequence", HIDDEN]
    twin = to_half(normalize(tiny.build({"x": axes, "r": axes}, {"y": axes})))
    found = fuse_plugins(twin, ["layernorm"])
    node = node_of(found)
    scales = [attribute(node, f"{name}_scale") for name in ("x", "residual", "output")]
    assert scales == pytest.approx([0.02, 0.04, 0.03])
    same_bits(twin, found)


def norm_in_parts(*, rms: bool, exponent: float = 2.0) -> onnx.ModelProto:
    """A norm as older exporters write it, and RMSNorm as T5 has it."""
    tiny = Tiny()
    x = tiny.op("MatMul", "x", tiny.const("w_in", noise(HIDDEN, HIDDEN, seed=1) / 7))
    mean = tiny.op("ReduceMean", x, axes=[-1])
    centered = x if rms else tiny.op("Sub", x, mean)
    square = tiny.op("Pow", centered, tiny.const("two", exponent))
    floor = tiny.const("epsilon", 1e-5)
    root = tiny.op("Sqrt", tiny.op("Add", tiny.op("ReduceMean", square, axes=[-1]), floor))
    if rms:
        scaled = tiny.op("Mul", x, tiny.op("Div", tiny.const("one", 1.0), root))
        normed = tiny.op("Mul", tiny.const("gamma", 1 + noise(HIDDEN) / 5), scaled)
    else:
        scaled = tiny.op("Mul", tiny.op("Div", centered, root), tiny.const("gamma", noise(HIDDEN)))
        normed = tiny.op("Add", scaled, tiny.const("beta", noise(HIDDEN, seed=2)))
    tiny.op("Neg", tiny.pair(normed, 0.03), out="y")
    axes: list[int | str] = ["batch", "sequence", HIDDEN]
    return to_half(normalize(tiny.build({"x": axes}, {"y": axes})))


def test_an_rms_norm_in_parts_becomes_one_node_that_computes_the_same_bits() -> None:
    twin = norm_in_parts(rms=True)
    found = fuse_plugins(twin, ["layernorm"])
    assert names(found) == ["skip_layernorm_quant_no_residual_rms"]
    assert attribute(node_of(found), "epsilon") == pytest.approx(1e-5)
    same_bits(twin, found)


@pytest.mark.parametrize(
    "changes", [{"rms": False}, {"rms": True, "exponent": 3.0}], ids=["LayerNorm", "cubes"]
)
def test_what_is_in_parts_and_no_rms_norm_is_left_alone(changes: dict[str, Any]) -> None:
    twin = norm_in_parts(**changes)
    assert fuse_plugins(twin, ["layernorm"]).model is twin


def test_a_layernorm_without_beta_gets_one_of_zeros() -> None:
    twin = norm_twin(beta=False, half=True)
    found = fuse_plugins(twin, ["layernorm"])
    assert names(found) == ["skip_layernorm_quant_bias_half"]
    beta = constants_of(found.model)[node_of(found).input[4]]
    np.testing.assert_array_equal(beta, np.zeros(HIDDEN, np.float16))
    onnx.checker.check_model(found.model, full_check=True)
    same_bits(twin, found)


def flat_twin(family: PluginFamily, flat: str) -> onnx.ModelProto:
    return norm_twin(total=True, flat=flat) if family == "layernorm" else gelu_twin(flat=flat)


def names_of(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node}


def names_without_shape(twin: onnx.ModelProto) -> set[str]:
    """Without the nodes that compute the shape of the Reshape, which is a constant now."""
    return {n.name for n in twin.graph.node if n.op_type not in ("Slice", "Concat")}


@pytest.mark.parametrize("family", ["layernorm", "gelu"])
def test_rows_in_one_axis_in_front_of_q_are_codes_of_x_s_shape_behind_the_node(
    family: PluginFamily,
) -> None:
    twin = flat_twin(family, "rows")
    found = fuse_plugins(twin, [family])
    assert len(found.calls) == 1
    onnx.checker.check_model(found.model, full_check=True)
    same_bits(twin, found)
    assert names_of(inline_plugins(found.model)) == names_without_shape(twin)
    found.model.graph.output.append(onnx.ValueInfoProto(name=node_of(found).output[0]))
    assert run_ort(found.model, rows(twin, sequence=5))[1].shape == (2, 5, HIDDEN)


@pytest.mark.parametrize("family", ["layernorm", "gelu"])
def test_a_reshape_that_does_something_else_is_left_alone_with_a_reason(
    family: PluginFamily,
) -> None:
    twin = flat_twin(family, "middle")
    found = fuse_plugins(twin, [family])
    assert found.model is twin
    assert "something else than flatten" in found.notes[0].reason


def test_a_layernorm_refused_late_gets_its_reshape_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(site: PluginSite) -> None:
        raise NoPluginError("late")

    twin = flat_twin("layernorm", "rows")
    nodes: list[str] = []

    def spy(graph: ir.Graph) -> None:
        undo_adapters(graph)
        sweep(graph)
        nodes.extend(str(node.name) for node in graph)

    monkeypatch.setattr(plugin_nodes, "check_site", refuse)
    monkeypatch.setattr(plugin_nodes, "undo_adapters", spy)
    assert fuse_plugins(twin, ["layernorm"]).model is twin
    assert set(nodes) == names_without_shape(twin)


@pytest.mark.parametrize("form", GELUS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_form_of_gelu_becomes_one_node_that_computes_the_same_bits(
    form: str, bias: bool
) -> None:
    twin = gelu_twin(form, bias=bias)
    found = fuse_plugins(twin, ["gelu"])
    assert names(found) == ["bias_gelu_quant" + "_no_bias" * (not bias)]
    assert attribute(node_of(found), "tanh") == int(form.endswith("tanh"))
    assert attribute(node_of(found), "output_scale") == pytest.approx(0.03)
    onnx.checker.check_model(found.model, full_check=True)
    same_bits(twin, found)


@pytest.mark.parametrize("form", ["erf", "erf-product", "tanh"])
@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_formula_with_another_constant_is_no_gelu(form: str, wrong: float) -> None:
    twin = gelu_twin(form, wrong=wrong)
    assert fuse_plugins(twin, ["gelu"]).model is twin


def test_a_gelu_whose_argument_something_else_reads_is_left_alone_with_a_reason() -> None:
    twin = gelu_twin()
    biased = next(node for node in twin.graph.node if node.name == "biased")
    twin.graph.output.append(onnx.ValueInfoProto(name=biased.output[0]))
    found = fuse_plugins(twin, ["gelu"])
    assert found.model is twin
    assert "hides" in found.notes[0].reason


def test_float32_rows_are_left_alone_with_a_reason() -> None:
    tiny = Tiny()
    normed = tiny.op(
        "LayerNormalization", "x", tiny.const("g", noise(4)), tiny.const("b", noise(4))
    )
    tiny.op("Neg", tiny.pair(normed, 0.03), out="y")
    model = normalize(tiny.build({"x": ["batch", 4]}, {"y": ["batch", 4]}))
    found = fuse_plugins(model, ["layernorm"])
    assert found.model is model
    assert "float32" in found.notes[0].reason


@pytest.mark.parametrize("family", ["layernorm", "gelu"])
def test_a_bias_of_one_element_is_left_alone_with_a_reason(family: PluginFamily) -> None:
    twin = norm_twin() if family == "layernorm" else gelu_twin()
    bias = next(tensor for tensor in twin.graph.initializer if tensor.name.startswith("bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float16), bias.name))
    found = fuse_plugins(twin, [family])
    assert found.model is twin
    assert "one element for each of 48 columns" in found.notes[0].reason
