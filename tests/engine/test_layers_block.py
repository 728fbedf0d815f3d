from __future__ import annotations

import re

import pytest

from trt_int8.engine.evidence import EngineTensor
from trt_int8.engine.layers_block import extract, parse
from trt_int8.errors import CoverageError

TENSOR = "{{ Name: {0}, Dimensions: [-1,64], Strides: [64,1], Datatype: {1}, Format: (Linear) x }}"


def tensor(name: str, dtype: str) -> str:
    return TENSOR.format(name, dtype)


GEMM = (
    f"Name: q+k_myl0_2, LayerType: gemm, Inputs: [ {tensor('x.1_myl0', 'Int8')}], "
    f"Constants: [ {tensor('w_dconst', 'Int8')}, {tensor('q_alpha_myl0', 'Float')}], "
    f"Outputs: [ {tensor('y', 'Half')}], TacticName: __myelin_CASK_STUB, StreamId: 0, "
    "Metadata: [ONNX Layer: q][ONNX Layer: k]"
)
SHAPE_CALL = (
    "Name: s, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
    "TacticName: , StreamId: 0, Metadata: "
)
BLOCK = f"Layers:\n{SHAPE_CALL}\n{GEMM}\n\nI/O Tensors:\n Name: x, IOMode: Input\n"


def test_the_block_is_found_among_other_messages() -> None:
    assert extract(["hello", f"  {BLOCK}", "bye"]) == BLOCK.strip()


def test_a_log_without_the_block_gives_an_empty_text() -> None:
    assert extract(["hello", "no Layers: here"]) == ""


def test_a_gemm_line_gives_names_types_and_nodes() -> None:
    gemm = parse(BLOCK)[1]
    assert (gemm.name, gemm.kind, gemm.onnx_nodes) == ("q+k_myl0_2", "gemm", ("q", "k"))
    assert gemm.inputs == (EngineTensor("x.1_myl0", "int8"),)
    assert gemm.constants[1] == EngineTensor("q_alpha_myl0", "float")
    assert gemm.outputs == (EngineTensor("y", "half"),)


def test_every_layer_line_is_read_and_io_tensors_are_not_layers() -> None:
    assert [layer.name for layer in parse(BLOCK)] == ["s", "q+k_myl0_2"]


def test_a_layer_without_tensors_is_of_another_kind() -> None:
    layer = parse(BLOCK)[0]
    assert (layer.kind, layer.inputs, layer.operands, layer.onnx_nodes) == ("other", (), (), ())


@pytest.mark.parametrize("block", ["", "Layers:\n", "Layers:\n \n\nI/O Tensors:\n", "no\nhead"])
def test_a_missing_block_is_an_error_and_never_an_empty_list(block: str) -> None:
    with pytest.raises(CoverageError, match="no readable 'Layers:' block"):
        parse(block)


@pytest.mark.parametrize(
    "part", ["LayerType: ", "Inputs: ", "Constants: ", "Outputs: ", "StreamId: ", "Metadata: "]
)
def test_a_layer_line_of_another_form_is_an_error(part: str) -> None:
    with pytest.raises(CoverageError, match="'Layers:' block has an unknown form: 'Name: q"):
        parse(BLOCK.replace(GEMM, GEMM.replace(part, "Other: ")))


@pytest.mark.parametrize("line", ["Name: garbage", " Name: a", "a_myl0_3, gemm, [Int8]"])
def test_a_garbage_layer_line_is_an_error_wherever_it_stands(line: str) -> None:
    for text in (f"{line}\n{GEMM}", f"{GEMM}\n{line}", f"{GEMM}\n\n{line}"):
        with pytest.raises(CoverageError, match=f"unknown form: '{re.escape(line)}'"):
            parse(BLOCK.replace(GEMM, text))


@pytest.mark.parametrize("title", ["I/O Tensors:", "Bindings:", "Engine Metadata:"])
def test_what_follows_the_layers_is_not_read(title: str) -> None:
    block = BLOCK.replace("I/O Tensors:", f"{title}\nNot a layer")
    assert [layer.name for layer in parse(block)] == ["s", "q+k_myl0_2"]


def test_a_tensor_with_an_unknown_type_is_reported_as_unknown() -> None:
    gemm = parse(BLOCK.replace("Datatype: Int8", "Datatype: Int4"))[1]
    assert [t.dtype for t in gemm.operands] == ["unknown", "unknown"]


def test_a_layer_outside_the_fused_graph_has_a_shorter_line_and_is_never_a_gemm() -> None:
    line = "Name: copy [2], LayerType: HostToDeviceCopy, Location: host"
    short = parse(BLOCK.replace(GEMM, f"{GEMM}\n{line}"))[-1]
    assert (short.name, short.kind, short.onnx_nodes) == ("copy [2]", "other", ())


@pytest.mark.parametrize("kind", ["gemm", "kgen", "runtime_fusion", "fusion"])
def test_a_kernel_with_a_short_line_is_an_error(kind: str) -> None:
    with pytest.raises(CoverageError, match="unknown form: 'Name: a, LayerType"):
        parse(f"Layers:\nName: a, LayerType: {kind}, Location: host\n")
