"""Reading files and running the checks: damage of all kinds, order, settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graph.lint.test_checks import judge
from tests.support.lint_graphs import attention, quantized_linear
from tests.support.lint_odd import float_linear, half_linear, plain
from trt_int8.errors import ModelError
from trt_int8.graph.lint import run, structure
from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.run import ALL_CHECKS, UNJUDGED, lint_file
from trt_int8.graph.lint.view import GraphView
from trt_int8.spec.lint import SEVERITIES, Goal
from trt_int8.spec.shapes import default_profile, parse_shapes

GOAL = Goal(sms=(75,), shapes=default_profile())


def broken(model: onnx.ModelProto) -> list[str]:
    report = judge(model)
    assert report.stopped
    return [finding.found for finding in report.of_check("broken-graph")]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no graph in its 0 bytes"),
        (b"\xff" * 99, "no ONNX file, or a damaged one .*99 bytes"),
        (b"not a model", "no ONNX file"),
        (b"PK\x03\x04" + bytes(30), "no ONNX file"),
    ],
)
def test_a_file_that_is_no_model_is_one_clear_error(
    data: bytes, match: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=match):
        lint_file(path, GOAL)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no file"):
        lint_file(tmp_path / "none.onnx", GOAL)
    with pytest.raises(ModelError, match="is a folder"):
        lint_file(tmp_path, GOAL)


def test_a_file_over_the_protobuf_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(quantized_linear().SerializeToString())
    monkeypatch.setattr(structure, "MOST_BYTES", 99)
    with pytest.raises(ModelError, match="wanted at most 2 GiB"):
        lint_file(path, GOAL)


def test_external_data_count_to_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(half_linear(), str(path), save_as_external_data=True, size_threshold=0)
    assert lint_file(path, GOAL).of_check("too-large") == ()
    # The codes are 64 x 64 float16, beside the file.
    monkeypatch.setattr(structure, "MOST_BYTES", 64 * 64 * 2)
    assert len(lint_file(path, GOAL).of_check("too-large")) == 1


def test_external_data_are_read_from_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = quantized_linear()
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="w.bin")
    assert lint_file(path, GOAL).findings == ()
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:-1])
    report = lint_file(path, GOAL)
    assert [f.check for f in report.findings] == ["missing-data"]
    assert report.stopped == "weights are missing"


@pytest.mark.parametrize("place", ["../w.bin", "/etc/hosts", ""])
def test_external_data_outside_the_folder_are_refused(place: str) -> None:
    model = half_linear()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    assert [f.node for f in judge(model).of_check("missing-data")] == ["w"]


def test_a_loop_is_named() -> None:
    model = quantized_linear()
    linear = next(node for node in model.graph.node if node.name == "linear")
    model.graph.node[0].input[0] = linear.output[0]
    # All but the weight's DQ and Cast, of 9.
    assert broken(model) == ["7 nodes can never run: they wait in a loop, or behind one"]


def test_a_loop_through_a_sub_graph_is_seen() -> None:
    end = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    body = helper.make_graph([helper.make_node("Relu", ["late"], ["inner"])], "b", [], end)
    model = plain("Relu")()
    condition = onnx.numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(condition)
    choice = helper.make_node("If", ["yes"], ["early"], then_branch=body, else_branch=body)
    model.graph.node.extend([choice, helper.make_node("Neg", ["early"], ["late"])])
    assert broken(model) == ["2 nodes can never run: they wait in a loop, or behind one"]


def test_a_tensor_made_twice_or_by_nobody_is_named() -> None:
    model = plain("Relu", "Neg")()
    model.graph.node[2].output[0] = model.graph.node[1].output[0]
    found = broken(model)
    assert "the tensor 'relu_1' is made a second time" in found
    assert "reads the tensor 'neg_2', which nothing makes" in found


def test_an_operator_without_its_inputs_is_named() -> None:
    model = quantized_linear()
    del next(node for node in model.graph.node if node.name == "linear").input[1]
    assert broken(model) == ["MatMul lacks one of its 2 inputs"]


def test_a_damaged_tensor_is_named() -> None:
    model = half_linear()
    next(t for t in model.graph.initializer if t.name == "w").dims[0] = 2**40
    assert [f.node for f in judge(model).of_check("broken-graph")] == ["w"]


def test_a_function_that_calls_itself_is_named() -> None:
    from tests.support.lint_graphs import function_model

    model = function_model(1)
    model.functions[0].node.add(op_type="Block", domain="local", input=["a", "w"], output=["c"])
    assert broken(model) == ["the function 'Block' calls itself"]


def test_text_that_is_not_utf8_is_named() -> None:
    data = quantized_linear().SerializeToString()
    assert b"MatMul" in data
    model = onnx.ModelProto.FromString(data.replace(b"MatMul", b"Mat\xfful"))
    assert broken(model) == [r"the text b'Mat\xfful' is not UTF-8"]


def test_an_empty_graph_is_named() -> None:
    assert broken(onnx.ModelProto(ir_version=8)) == ["there is no graph in the file"]


def test_errors_come_first_then_warnings_then_infos() -> None:
    report = judge(attention(heads=1, softmax=0.0, missing=("key",)))
    order = [SEVERITIES.index(finding.severity) for finding in report.findings]
    assert order == sorted(order)
    assert {0, 1} <= set(order)


def test_float32_is_refused_on_turing_alone() -> None:
    assert judge(float_linear()(), sms=(80,)).count("error") == 0
    assert judge(float_linear()(), sms=(80, 75)).count("error") == 1


@pytest.mark.parametrize(
    ("size", "longest", "sms", "struck"),
    [
        (64, 384, (75,), False), (64, 385, (75,), True), (64, 512, (80,), False),
        (64, 513, (80,), True), (32, 512, (75,), False), (32, 513, (75, 80), True),
    ],
)  # fmt: skip
def test_a_profile_longer_than_the_fused_kernel_is_found(
    size: int, longest: int, sms: tuple[int, ...], struck: bool
) -> None:
    report = judge(attention(size=size), sms, f"batch=1,seq=8:16:{longest}")
    assert bool(report.of_check("attention-length")) == struck


def test_a_check_that_falls_over_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(_: GraphView) -> list[Hit]:
        raise KeyError("surprise")

    monkeypatch.setattr(run, "GRAPH_CHECKS", (Check(ALL_CHECKS[0], fall),))
    found = judge(quantized_linear()).of_check(UNJUDGED.id)
    assert [f.found for f in found] == ["broken-graph: KeyError: 'surprise'"]


def test_the_shapes_asked_for_need_not_be_axes_of_the_model() -> None:
    goal = Goal(sms=(75,), shapes=parse_shapes("nowhere=1:2:3"))
    assert run.lint_model(attention(), Path("m.onnx"), goal).findings == ()
