"""`--fix`: what it mends computes the same, and what it leaves is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph.lint.test_checks import judge
from tests.support.lint_faults import bias, consumers, scale, twice, weight
from tests.support.lint_graphs import (
    H,
    Half,
    attention,
    function_model,
    quantized_linear,
    renamed,
    with_activation,
)
from tests.support.lint_odd import branch, dynamic, half_linear
from tests.support.onnx_tiny import Array, Tiny, constants_of, count, noise, run_ort
from trt_int8.errors import BundleError, ModelError
from trt_int8.graph.lint.fix import fix_file, mend
from trt_int8.spec.lint import FixReport, Goal
from trt_int8.spec.shapes import parse_shapes

GOAL = Goal(sms=(75, 80), shapes=parse_shapes("batch=1:2:4,seq=8:16:40"))
Make = Callable[[], onnx.ModelProto]


def fixed(model: onnx.ModelProto, folder: Path) -> tuple[FixReport, onnx.ModelProto]:
    path, out = folder / "m.onnx", folder / "new" / "out.onnx"
    onnx.save(model, str(path))
    return fix_file(path, out, GOAL), onnx.load(str(out))


def outputs(model: onnx.ModelProto) -> Array:
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = ""  # ONNX Runtime refuses names given twice
    return run_ort(named, {"x": noise(2, 5, H, seed=3)})[0]


def in_float32(make: Make, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """The same graph with a float32 body."""
    with monkeypatch.context() as patch:
        patch.setattr(Half, "half", lambda _, value: value)
        patch.setattr(Half, "full", lambda _, value: value)
        return make()


FAULTS = {
    "zero-point": scale(0.02, zero=np.uint8(128)),
    "turned-weight": weight("turned"),
    "requantized": lambda: with_activation(_same_twice),
    "pair-per-consumer": consumers(False),
    "repeated-qdq-name": lambda: renamed(scale(0.1)(), quant="dequant"),
    "unnamed-node": lambda: renamed(quantized_linear(), linear=""),
    "repeated-name": lambda: renamed(quantized_linear(), close="linear"),
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_mended_float32_graph_computes_exactly_the_same(
    check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_float32(FAULTS[check], monkeypatch)
    assert judge(model, sms=(80,)).of_check(check)
    report, mended = fixed(model, tmp_path)
    assert report.after.of_check(check) == ()
    np.testing.assert_array_equal(outputs(mended), outputs(model))


# Half precision: where a code sits between two steps, less rounding may move it by one.
HALF_FAULTS = {
    **FAULTS,
    "half-scale": scale(0.02, np.float16),
    "int32-dequantize": bias("int32"),
    "function-called-twice": lambda: function_model(2),
}


@pytest.mark.parametrize("check", HALF_FAULTS)
def test_a_mended_float16_graph_is_sound_and_computes_nearly_the_same(
    check: str, tmp_path: Path
) -> None:
    model = HALF_FAULTS[check]()
    assert judge(model).of_check(check)
    report, mended = fixed(model, tmp_path)
    assert report.after.of_check(check) == ()
    assert (report.after.count("error"), report.after.count("warning")) == (0, 0)
    assert any(step.startswith(f"{check}: ") for step in report.steps)
    before, after = outputs(model), outputs(mended)
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


@pytest.mark.parametrize("check", ["unnamed-node", "repeated-name", "repeated-qdq-name"])
def test_a_new_name_changes_no_bit_of_a_float16_graph(check: str, tmp_path: Path) -> None:
    model = FAULTS[check]()
    report, mended = fixed(model, tmp_path)
    assert [n.op_type for n in mended.graph.node] == [n.op_type for n in model.graph.node]
    assert report.steps[0] == "named 1 nodes"
    np.testing.assert_array_equal(outputs(mended), outputs(model))


def _same_twice(t: Half, tensor: str) -> str:
    return t.pair(t.pair(tensor, 0.02), 0.02)


def test_a_lone_activation_pair_is_taken_out_and_the_float_product_left(tmp_path: Path) -> None:
    report, mended = fixed(weight("float")(), tmp_path)
    assert count(mended, "QuantizeLinear") == 0
    assert "took Q/DQ off one operand of 'linear'" in report.steps[0]
    np.testing.assert_allclose(outputs(mended), outputs(half_linear()), atol=0.01)


def test_a_lone_int8_weight_is_left_alone(tmp_path: Path) -> None:
    t = Half()
    model = t.close(t.linear(t.x()))
    report, mended = fixed(model, tmp_path)
    assert count(mended, "DequantizeLinear") == 1
    assert [f.found for f in report.after.of_check("one-operand")] == ["only its weight has Q/DQ"]


@pytest.mark.parametrize("missing", [("softmax", "value"), ("query", "key"), ("key",)])
def test_a_half_quantized_attention_becomes_float_and_its_linears_stay_int8(
    missing: tuple[str, ...], tmp_path: Path
) -> None:
    report, mended = fixed(attention(missing=missing), tmp_path)
    assert [f.check for f in report.after.findings] == ["attention-float"]
    whole = outputs(attention(missing=("query", "key", "value", "softmax")))
    np.testing.assert_allclose(outputs(mended), whole, atol=0.05 * np.abs(whole).max())


def test_a_sound_attention_stays_as_it_is(tmp_path: Path) -> None:
    report, mended = fixed(attention(), tmp_path)
    assert report.after.findings == ()
    assert count(mended, "QuantizeLinear") == count(attention(), "QuantizeLinear")


def test_scales_come_out_as_float32_and_the_body_as_float16(tmp_path: Path) -> None:
    _, mended = fixed(scale(0.02, np.float16)(), tmp_path)
    steps = [n.input[1] for n in mended.graph.node if n.op_type.endswith("uantizeLinear")]
    stored = constants_of(mended)
    assert {str(stored[name].dtype) for name in steps} == {"float32"}
    assert judge(mended).of_check("float32-matmul") == ()


def test_what_cannot_be_mended_is_said_and_the_rest_is_done() -> None:
    mended = mend(renamed(dynamic("DynamicQuantizeLinear")(), close="odd"))
    assert [text.split(",")[0] for text in mended.skipped] == ["the normal form"]
    assert mended.steps == ("named 1 nodes",)
    after = judge(mended.model)
    assert after.of_check("integer-operator")
    assert after.of_check("repeated-name") == ()


def test_control_flow_is_left_and_said() -> None:
    mended = mend(branch(True)())
    assert count(mended.model, "If") == 1
    assert "sub-graphs" in mended.skipped[0]


def test_a_sound_file_is_written_as_it_was(tmp_path: Path) -> None:
    report, mended = fixed(attention(), tmp_path)
    assert report.steps == ()
    assert mended == attention()


def test_a_float32_graph_stays_float32(tmp_path: Path) -> None:
    t = Tiny()
    t.op("MatMul", t.pair("x", 0.02), t.const("w", noise(H, H)), out="y", name="linear")
    model = t.build({"x": ["b", "s", H]}, {"y": ["b", "s", H]})
    _, mended = fixed(model, tmp_path)
    assert {str(array.dtype) for array in constants_of(mended).values()} == {"float32"}


def test_the_input_is_never_replaced_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(twice(False, 0.02)(), str(path))
    data = path.read_bytes()
    with pytest.raises(BundleError, match="is the input; wanted a new file"):
        fix_file(path, path, GOAL)
    assert path.read_bytes() == data
    fix_file(path, path, GOAL, force=True)
    assert path.read_bytes() != data
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_an_old_file_is_not_replaced_unless_told(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(quantized_linear(), str(path))
    out.write_bytes(b"old")
    with pytest.raises(BundleError, match=r"o\.onnx' exists"):
        fix_file(path, out, GOAL)
    assert out.read_bytes() == b"old"


def test_a_broken_graph_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    model = quantized_linear()
    model.graph.output[0].name = "nobody"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot be mended: the graph is broken"):
        fix_file(path, out, GOAL)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_external_data_go_into_the_mended_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "m.onnx"
    model = weight("turned")()
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0)
    report = fix_file(path, tmp_path / "o.onnx", GOAL)
    assert report.after.findings == ()
    before, after = outputs(weight("turned")()), outputs(onnx.load(str(tmp_path / "o.onnx")))
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


def test_mending_twice_changes_nothing_more() -> None:
    once = mend(attention(missing=("key",))).model
    again = mend(once)
    assert [n.op_type for n in again.model.graph.node] == [n.op_type for n in once.graph.node]
