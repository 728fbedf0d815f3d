from __future__ import annotations

import json
from typing import Any

import pytest

from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.inspector import parse
from trt_int8.errors import CoverageError
from trt_int8.model.onnx_matmuls import MatMulSite

NODES = "[ONNX Layer: /a/MatMul]\x1e[ONNX Layer: /b/MatMul]\x1f[ONNX Layer: /a/DQ]"
SITES = tuple(MatMulSite(name, "linear", None, wanted_int8=True) for name in ("/a/MatMul",))


def text_of(*layers: object) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["x", "y"]})


def tensor_10(name: str, kind: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": [-1, 64], "Format/Datatype": kind}


def tensor_11(name: str, kind: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": [-1, 64], "Datatype": kind, "Format": "Row major linear"}


def gemm_10(weight: str = "Row major linear INT8") -> dict[str, Any]:
    """As TensorRT 10: type inside `Format/Datatype`, weights and scales among the inputs."""
    return {
        "Name": "/a/MatMul_myl0_2",
        "LayerType": "gemm",
        "Inputs": [
            tensor_10("x.1", "Row major linear INT8"),
            tensor_10("__mye483_dconst", weight),
            tensor_10("__mye40_alpha_myl0", "Row major linear FP32"),
        ],
        "Outputs": [tensor_10("y", "Row major linear FP16")],
        "TacticName": "sm80_xmma_gemm_i8f16",
        "Metadata": NODES,
    }


def gemm_11(weight: str = "Int8") -> dict[str, Any]:
    """As TensorRT 11: `Datatype` and `Format` apart, weights under `Constants`."""
    return {
        "Name": "/a/MatMul_myl0_2",
        "LayerType": "gemm",
        "Inputs": [tensor_11("x.1", "Int8")],
        "Constants": [tensor_11("w", weight), tensor_11("a_alpha", "Float")],
        "Outputs": [tensor_11("y", "Half")],
        "Metadata": NODES,
    }


def runs(text: str) -> str:
    evidence = Evidence("engine inspector", "test", parse(text), None)
    return cover(SITES, evidence, "int8", None).nodes[0].runs


@pytest.mark.parametrize("gemm", [gemm_10(), gemm_11()], ids=["10", "11"])
def test_types_weights_and_nodes_are_read_in_the_form_of_each_version(
    gemm: dict[str, Any],
) -> None:
    (layer,) = parse(text_of(gemm))
    assert layer.kind == "gemm"
    assert [t.dtype for t in layer.inputs[:1]] == ["int8"]
    assert [t.dtype for t in layer.operands] == ["int8", "int8"]
    assert [t.dtype for t in layer.outputs] == ["half"]
    assert layer.onnx_nodes == ("/a/MatMul", "/b/MatMul", "/a/DQ")


def test_version_10_weights_among_the_inputs_become_constants() -> None:
    (layer,) = parse(text_of(gemm_10()))
    assert [t.name for t in layer.constants] == ["__mye483_dconst"]
    assert "__mye483_dconst" not in [t.name for t in layer.inputs]


@pytest.mark.parametrize("gemm", [gemm_10(), gemm_11()], ids=["10", "11"])
def test_an_int8_gemm_counts_as_int8(gemm: dict[str, Any]) -> None:
    assert runs(text_of(gemm)) == "int8"


@pytest.mark.parametrize(
    "gemm", [gemm_10("Row major linear FP16"), gemm_11("Half")], ids=["10", "11"]
)
def test_a_half_weight_makes_the_gemm_float(gemm: dict[str, Any]) -> None:
    assert runs(text_of(gemm)) == "float"


@pytest.mark.parametrize("gemm", [gemm_10("Row major linear"), gemm_11("Other")], ids=["10", "11"])
def test_an_unknown_weight_type_is_not_int8(gemm: dict[str, Any]) -> None:
    assert runs(text_of(gemm)) != "int8"


def test_a_version_8_myelin_layer_proves_nothing() -> None:
    opaque = {
        "Name": "{ForeignNode[/a/QuantizeLinear.../b/Add]}",
        "LayerType": "Myelin",
        "Inputs": [tensor_10("x", "Row major linear INT8")],
        "Outputs": [tensor_10("y", "Row major linear INT8")],
        "TacticName": "",
        "Metadata": NODES,
    }
    assert runs(text_of(opaque)) == "unmapped"
    evidence = Evidence("engine inspector", "8.6.1", parse(text_of(opaque)), None)
    node = cover(SITES, evidence, "int8", None).nodes[0]
    assert node.reason == "TensorRT 8.6.1 does not list the kernels inside its fused layers"


@pytest.mark.parametrize("form", ["Datatype", "DataType", "Format/Datatype"])
def test_each_spelling_of_the_type_key_is_read(form: str) -> None:
    layer = {"Name": "a", "Inputs": [{"Name": "x", form: "Int8"}]}
    assert parse(text_of(layer))[0].inputs[0].dtype == "int8"


@pytest.mark.parametrize("layers", [["a", "b"], [gemm_11(), "b"], []])
def test_a_list_of_names_only_is_refused(layers: list[object]) -> None:
    with pytest.raises(CoverageError, match=r"layer names only; .*ProfilingVerbosity.DETAILED"):
        parse(text_of(*layers))


@pytest.mark.parametrize("text", ["", "None", "[1, 2]", "{}", '{"layers": []}', "3"])
def test_a_text_without_layers_is_refused(text: str) -> None:
    with pytest.raises(CoverageError, match="not JSON with 'Layers'"):
        parse(text)


@pytest.mark.parametrize(
    "layers",
    [
        7,
        [7],
        [{"LayerType": "gemm"}],
        [{"Name": "a", "Inputs": [{"Datatype": "Int8"}]}],
        [{"Name": "a", "Inputs": ["x"]}],
        [{"Name": "a", "Outputs": 3}],
    ],
)
def test_a_layer_of_an_unknown_form_is_a_coverage_error(layers: object) -> None:
    with pytest.raises(CoverageError, match=r"a layer .* has an unknown form: ['\"]"):
        parse(json.dumps({"Layers": layers}))
