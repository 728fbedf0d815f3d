"""Files that other quantizers wrote: ONNX Runtime's, and ModelOpt's where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tests.support.onnx_tiny import Array, Tiny, constants_of, noise, run_ort
from tests.support.tiny_transformers import tiny_backbone, tokens
from trt_int8.errors import GraphError
from trt_int8.graph.insert import strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.model.heads import ExportWrapper
from trt_int8.model.onnx_matmuls import find_matmuls

HIDDEN = 16
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
KINDS = {
    "int8": (QuantType.QInt8, QuantType.QInt8),
    "uint8": (QuantType.QUInt8, QuantType.QUInt8),
}


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """A few batches of noise."""

    def __init__(self) -> None:
        self._left: Iterator[dict[str, Array]] = iter(
            [{"x": noise(4, HIDDEN, seed=seed)} for seed in range(3)]
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """LayerNorm, Linear, Softmax, and a product of two activations."""
    tiny = Tiny()
    gain = tiny.const("gain", 1 + noise(HIDDEN, seed=4) / 4)
    value = tiny.op("LayerNormalization", "x", gain, tiny.const("offset", noise(HIDDEN, seed=5)))
    value = tiny.op("MatMul", value, tiny.const("w1", noise(HIDDEN, HIDDEN, seed=6)))
    value = tiny.op("Add", value, tiny.const("b1", noise(HIDDEN, seed=7)))
    turned = tiny.op("Transpose", value, perm=[1, 0])
    weights = tiny.op("Softmax", tiny.op("MatMul", value, turned), axis=-1)
    mixed = tiny.op("MatMul", weights, value)
    tiny.op("Gemm", mixed, tiny.const("w2", noise(HIDDEN, HIDDEN, seed=8)), out="y")
    file = tmp_path / "float.onnx"
    onnx.save(tiny.build({"x": ["rows", HIDDEN]}, {"y": ["rows", HIDDEN]}), str(file))
    return file


def quantized(float_file: Path, kind: str, *, per_channel: bool, **options: Any) -> onnx.ModelProto:
    file = float_file.with_name("quantized.onnx")
    activation, weight = KINDS[kind]
    quantize_static(
        str(float_file),
        str(file),
        Batches(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=activation,
        weight_type=weight,
        extra_options=options,
    )
    return onnx.load(str(file))


@pytest.mark.parametrize("per_channel", [False, True])
def test_symmetric_int8_of_onnx_runtime_gives_the_same_bits_and_int8_matmuls(
    float_file: Path, per_channel: bool
) -> None:
    model = quantized(float_file, "int8", per_channel=per_channel, **SYMMETRIC)
    normal, feeds = normalize(model), {"x": noise(5, HIDDEN, seed=9)}
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])
    assert all(site.wanted_int8 for site in find_matmuls(normal))


def test_symmetric_uint8_of_onnx_runtime_becomes_int8(float_file: Path) -> None:
    model = quantized(float_file, "uint8", per_channel=True, **SYMMETRIC)
    assert "uint8" in {a.dtype.name for a in constants_of(model).values()}
    normal, feeds = normalize(model), {"x": noise(5, HIDDEN, seed=9)}
    assert "uint8" not in {a.dtype.name for a in constants_of(normal).values()}
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_the_default_of_onnx_runtime_is_asymmetric_and_refused(float_file: Path, kind: str) -> None:
    with pytest.raises(GraphError, match=r"more such nodes\).*ActivationSymmetric"):
        normalize(quantized(float_file, kind, per_channel=False))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_the_float_graph_behind_even_that_one_can_be_had(float_file: Path, kind: str) -> None:
    model = normalize(strip_qdq(quantized(float_file, kind, per_channel=False)))
    assert not [n for n in model.graph.node if n.op_type.endswith("uantizeLinear")]
    feeds = {"x": noise(5, HIDDEN, seed=9)}
    expected = run_ort(onnx.load(str(float_file)), feeds)[0]
    found = run_ort(model, feeds)[0]
    # Weights went through 8 bits.
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("recipe", ["INT8_DEFAULT_CFG", "INT8_SMOOTHQUANT_CFG"])
def test_a_model_quantized_by_modelopt_has_int8_linears(recipe: str, tmp_path: Path) -> None:
    mtq = pytest.importorskip("modelopt.torch.quantization", reason="ModelOpt is not installed")
    backbone = tiny_backbone("Bert")
    backbone.config.use_cache = False
    backbone.set_attn_implementation("eager")
    names = ("input_ids", "attention_mask")
    model = ExportWrapper(backbone, names, None).eval()
    quantized_model = mtq.quantize(model, getattr(mtq, recipe), lambda m: m(*tokens()))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            quantized_model,
            tokens(),
            str(tmp_path / "m.onnx"),
            opset_version=17,
            dynamo=False,
            input_names=list(names),
        )
    model_proto = onnx.load(str(tmp_path / "m.onnx"))
    normal = normalize(model_proto)
    sites = [site for site in find_matmuls(normal) if site.role == "linear"]
    assert [site.wanted_int8 for site in sites] == [True] * 12
    feeds = {name: value.numpy() for name, value in zip(names, tokens(seed=4), strict=True)}
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model_proto, feeds)[0])
