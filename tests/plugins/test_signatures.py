from __future__ import annotations

import pytest

from trt_int8.errors import PluginError
from trt_int8.plugins.signatures import (
    NAMESPACE,
    PluginSignature,
    signature_named,
    signature_of,
    signatures,
)

every_signature = pytest.mark.parametrize("signature", signatures(), ids=lambda s: s.name)


def names(specs: object) -> list[str]:
    assert isinstance(specs, tuple)
    return [spec.name for spec in specs]


def test_there_is_one_plugin_per_combination_of_optional_inputs_and_outputs() -> None:
    families = [signature.family for signature in signatures()]
    # Attention: 2 padded layouts with 3 masks, and ragged; LayerNorm: 5 switches; GELU: 1 switch.
    assert {name: families.count(name) for name in families} == {
        "attention": 2 * 3 + 1,
        "layernorm": 2**5,
        "gelu": 2,
    }


def test_no_two_plugins_share_a_name() -> None:
    assert len({signature.name for signature in signatures()}) == len(signatures())


@pytest.mark.parametrize(
    ("family", "features", "name", "inputs", "outputs"),
    [
        ("attention", [], "int8_attention", "q k v", "output"),
        ("attention", ["mask"], "int8_attention_mask", "q k v mask", "output"),
        (
            "attention",
            ["lengths", "packed"],
            "int8_attention_packed_lengths",
            "qkv key_lengths",
            "output",
        ),
        ("attention", ["ragged"], "int8_attention_ragged", "q k v cu_seqlens", "output"),
        ("layernorm", [], "skip_layernorm_quant", "x residual gamma beta", "y"),
        (
            "layernorm",
            ["sum", "bias"],
            "skip_layernorm_quant_bias_sum",
            "x bias residual gamma beta",
            "y sum",
        ),
        (
            "layernorm",
            ["rms", "no_residual", "half", "sum"],
            "skip_layernorm_quant_no_residual_rms_half_sum",
            "x gamma",
            "y y_half sum",
        ),
        ("gelu", [], "bias_gelu_quant", "x bias", "y"),
        ("gelu", ["no_bias"], "bias_gelu_quant_no_bias", "x", "y"),
    ],
)
def test_features_in_any_order_name_one_plugin(
    family: str, features: list[str], name: str, inputs: str, outputs: str
) -> None:
    signature = signature_of(family, features)  # type: ignore[arg-type]
    assert signature.plugin_id == f"trt_int8::{name}"
    assert names(signature.inputs) == inputs.split()
    assert names(signature.outputs) == outputs.split()


@every_signature
def test_a_plugin_is_found_by_its_name_with_and_without_namespace(
    signature: PluginSignature,
) -> None:
    assert signature_named(signature.name) is not None
    assert signature_named(signature.plugin_id) == signature_named(signature.name) == signature


@every_signature
def test_attributes_are_scalars_and_no_name_is_one_that_tensorrt_keeps_for_itself(
    signature: PluginSignature,
) -> None:
    used = [*names(signature.inputs), *names(signature.attributes)]
    assert {attribute.kind for attribute in signature.attributes} <= {int, float}
    assert not {"outputs", "stream", "tactic"} & set(used)
    assert len(set(used)) == len(used)
    assert all(name.isidentifier() for name in used)


@every_signature
def test_names_have_no_dot_and_the_namespace_is_not_one_of_tensorrt(
    signature: PluginSignature,
) -> None:
    assert "." not in signature.plugin_id
    assert NAMESPACE not in {"", "trt", "tensorrt", "std"}


@pytest.mark.parametrize(
    ("family", "features"),
    [
        ("attention", ["lengths", "mask"]),
        ("attention", ["ragged", "lengths"]),
        ("attention", ["packed", "ragged"]),
        ("gelu", ["bias"]),
    ],
)
def test_a_form_that_there_is_no_kernel_for_is_refused(family: str, features: list[str]) -> None:
    with pytest.raises(PluginError, match=f"no plugin of the family '{family}' has the features"):
        signature_of(family, features)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(PluginError, match="no plugin is named 'trt_int8::int8_atention'"):
        signature_named("trt_int8::int8_atention")
