"""Which types an ONNX file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.errors import GraphError, ModelError
from trt_int8.pipeline.onnx_entrance import check_axes, load_onnx, token_inputs


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


@pytest.mark.parametrize("axes", [[1, "sequence"], ["batch", 128], [1, 128], ["batch"]])
def test_fixed_input_sizes_are_refused(axes: list[int | str]) -> None:
    model = token_model(TensorProto.INT64)
    model.graph.input.pop()
    model.graph.input.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, axes))
    with pytest.raises(GraphError, match="wanted two dynamic axes, batch and sequence"):
        check_axes(model, Path("model.onnx"))


def test_dynamic_axes_pass_whatever_they_are_called() -> None:
    model = token_model(TensorProto.INT64)
    model.graph.input.pop()
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", None]))
    check_axes(model, Path("model.onnx"))
