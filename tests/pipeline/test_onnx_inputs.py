"""Which types an ONNX file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.errors import GraphError, ModelError
from trt_int8.pipeline.onnx_entrance import load_onnx, token_inputs


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def token_model(kind: int) -> onnx.ModelProto:
    tiny = Tiny()
    tiny.op("Gather", tiny.const("table", noise(9, 4)), "input_ids", out="y")
    model = tiny.build({}, {"y": [2, 4]})
    model.graph.input.append(helper.make_tensor_value_info("input_ids", kind, [2]))
    return model


def test_weights_stored_as_float16_behind_a_cast_are_taken(tmp_path: Path) -> None:
    tiny = Tiny()
    stored = tiny.const("w", noise(4, 4).astype(np.float16))
    tiny.op("MatMul", "x", tiny.op("Cast", stored, to=TensorProto.FLOAT), out="y")
    load_onnx(saved(tiny.build({"x": [3, 4]}, {"y": [3, 4]}), tmp_path))


def test_a_model_that_computes_in_float16_is_refused(tmp_path: Path) -> None:
    tiny = Tiny()
    half = tiny.op("Cast", "x", to=TensorProto.FLOAT16)
    product = tiny.op("MatMul", half, tiny.const("w", noise(4, 4).astype(np.float16)))
    tiny.op("Cast", product, to=TensorProto.FLOAT, out="y")
    with pytest.raises(GraphError, match="holds float16 or bfloat16 tensors"):
        load_onnx(saved(tiny.build({"x": [3, 4]}, {"y": [3, 4]}), tmp_path))


def test_int64_inputs_are_the_inputs_of_a_tokenizer() -> None:
    assert token_inputs(token_model(TensorProto.INT64), Path("model.onnx")) == ("input_ids",)


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.INT32, "int32"), (TensorProto.FLOAT, "float")]
)
def test_other_inputs_are_refused_by_name_and_type(kind: int, name: str) -> None:
    with pytest.raises(ModelError, match=f"'input_ids' of 'model.onnx' is {name}; wanted int64"):
        token_inputs(token_model(kind), Path("model.onnx"))
