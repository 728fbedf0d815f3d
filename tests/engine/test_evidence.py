from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.engine.evidence import (
    UNKNOWN_PROFILE,
    EngineLayer,
    EngineTensor,
    LayerKind,
    data_type,
    layer_kind,
    onnx_nodes,
    with_profiles,
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Int8", "int8"),
        ("Half", "half"),
        ("Float", "float"),
        ("Row major linear FP32", "float"),
        ("Row major linear FP16 format", "half"),
        ("Four wide channel vectorized row major Int8 format", "int8"),
        ("Thirty-two wide channel vectorized row major FP8", "fp8"),
        ("BFloat16", "bfloat16"),
        ("Row major linear INT64", "int64"),
        ("UINT8", "uint8"),
    ],
)
def test_a_data_type_is_found_in_nvidias_spellings(text: str, word: str) -> None:
    assert data_type(text) == word


@pytest.mark.parametrize("text", ["", "Int4", "E4M3", "Row major linear format", "8 32"])
def test_a_data_type_that_is_not_listed_is_unknown(text: str) -> None:
    assert data_type(text) == "unknown"


@pytest.mark.parametrize(
    ("layer_type", "name", "kind"),
    [
        ("gemm", "v_U20+k_U25+q_U30_myl0_2", "gemm"),
        ("MatrixMultiply", "/encoder/MatMul", "gemm"),
        ("CaskGemmMatrixMultiply", "/encoder/MatMul", "gemm"),
        ("kgen", "_gemm_mha_v2_myl0_6", "attention"),
        ("runtime_fusion", "__myl_FcAddDivCastErfCastAddMulMul_myl0_3", "gemm"),
        ("fusion", "__myl_FcMul_myl0_3", "gemm"),
        ("runtime_fusion", "__myl_MulAddCast_myl0_3", "other"),
        ("kgen", "__myl_MulMinMaxRounCast_myl0_1", "other"),
        ("kgen", "__myl_FcLike", "other"),
        ("Myelin", "{ForeignNode[a...b]}", "other"),
    ],
)
def test_a_layer_is_classified_by_type_and_name(
    layer_type: str, name: str, kind: LayerKind
) -> None:
    assert layer_kind(layer_type, name) == kind


def test_node_names_are_listed_once_and_in_order() -> None:
    text = "[ONNX Layer: b][ONNX Layer: a] [ONNX Layer: b]"
    assert onnx_nodes(text) == ("b", "a")


@pytest.mark.parametrize("separator", ["", "\x1e", "\x1f", " ", "\x1f\x1e"])
def test_node_names_are_split_at_every_separator(separator: str) -> None:
    assert onnx_nodes(f"[ONNX Layer: a]{separator}[ONNX Layer: b/c]") == ("a", "b/c")


def test_brackets_in_a_node_name_belong_to_it() -> None:
    assert onnx_nodes("[ONNX Layer: a[0]][ONNX Layer: b[1]/c]") == ("a[0]", "b[1]/c")


def test_metadata_without_onnx_layers_names_no_node() -> None:
    assert onnx_nodes("[Something: a]") == ()


_NAMES = st.text("abc/._[]| 019", min_size=1, max_size=12).map(str.strip).filter(bool)


@given(st.lists(_NAMES, max_size=5, unique=True))
@settings(max_examples=60)
def test_any_list_of_names_comes_back_from_its_metadata(names: list[str]) -> None:
    assert onnx_nodes("\x1f".join(f"[ONNX Layer: {name}]" for name in names)) == tuple(names)


def _gemm(inputs: str, constants: str) -> EngineLayer:
    def tensors(names: str) -> tuple[EngineTensor, ...]:
        return tuple(EngineTensor(name, "int8") for name in names.split())

    return EngineLayer("g", "gemm", tensors(inputs), tensors(constants), (), ())


@pytest.mark.parametrize(
    ("inputs", "constants", "operands"),
    [
        ("a", "w x_alpha x_beta", ["a", "w"]),
        ("a", "x_alpha_myl0 x_beta_myl12 w", ["a", "w"]),
        ("a b", "x_alpha", ["a", "b"]),
        ("a", "x_alpha x_beta", ["a"]),
        ("alpha_a", "beta_w", ["alpha_a", "beta_w"]),
    ],
)
def test_operands_are_the_first_two_tensors_that_are_no_scale(
    inputs: str, constants: str, operands: list[str]
) -> None:
    assert [tensor.name for tensor in _gemm(inputs, constants).operands] == operands


def _layer(name: str, *inputs: str) -> EngineLayer:
    return EngineLayer(name, "gemm", tuple(EngineTensor(i, "int8") for i in inputs), (), (), ())


def test_kernels_run_in_the_profile_that_any_kernel_of_their_graph_names() -> None:
    layers = [
        _layer("_gemm_mha_v2_myl0_6"),
        _layer("fc_U1_myl0_7"),
        _layer("_gemm_mha_v2_myl1_6"),
        _layer("fc [profile 1]_U1_myl1_7"),
        _layer("_gemm_mha_v2_myl2_6", "__mye9fc [profile 2]_alpha"),
    ]
    assert [layer.profile for layer in with_profiles(layers)] == [0, 0, 1, 1, 2]


def test_a_graph_that_names_two_profiles_is_of_none() -> None:
    layers = [_layer("a [profile 1]_myl3_0"), _layer("b [profile 2]_myl3_1"), _layer("c_myl4_0")]
    assert [layer.profile for layer in with_profiles(layers)] == [UNKNOWN_PROFILE] * 2 + [0]


def test_two_graphs_of_one_profile_are_both_in_it() -> None:
    layers = [_layer("a_myl0_0"), _layer("b_myl1_0"), _layer("plugin")]
    assert [layer.profile for layer in with_profiles(layers)] == [0, 0, 0]


def test_the_profile_in_a_node_name_is_not_part_of_it() -> None:
    assert onnx_nodes("[ONNX Layer: fc [profile 1]][ONNX Layer: fc]") == ("fc",)


def test_a_node_inside_a_plugin_call_has_its_own_name() -> None:
    text = "[ONNX Layer: a/MatMul | a/Softmax/int8_attention (int8_attention__3)]"
    assert onnx_nodes(text) == ("a/MatMul",)
    assert onnx_nodes("[ONNX Layer: a | b (other)]") == ("a | b (other)",)
