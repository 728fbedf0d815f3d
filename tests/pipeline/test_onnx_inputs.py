"""Which types an ONNX file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.errors import CalibrationError, GraphError
from trt_int8.model.inputs import ModelInput, graph_inputs
from trt_int8.pipeline.onnx_entrance import check_text_inputs, load_onnx


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


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


def check(dtype: str, *axes: int | str | None) -> None:
    check_text_inputs((ModelInput("ids", dtype, axes),), Path("model.onnx"))


def test_int64_inputs_of_two_dynamic_axes_take_texts_whatever_they_are_called() -> None:
    check("int64", "n", None)


@pytest.mark.parametrize(
    ("dtype", "axes", "wanted"),
    [
        ("int32", ("n", "s"), r"ids int32 \[samples, s\]"),
        ("float32", ("n", "s"), r"ids float32 \[samples, s\]"),
        ("int64", ("n", "s", 4), r"ids int64 \[samples, s, 4\]"),
        ("int64", (1, "s"), r"ids int64 \[samples, s\]"),
        ("int64", ("n", 128), r"ids int64 \[samples, 128\]"),
        ("int64", ("n",), r"ids int64 \[samples\]"),
    ],
)
def test_other_inputs_take_arrays_and_the_error_says_which(
    dtype: str, axes: tuple[int | str, ...], wanted: str
) -> None:
    todo = r"np\.savez\('calib\.npz', ids=\.\.\.\)"
    with pytest.raises(CalibrationError, match=rf"wanted --calib FILE.npz with {wanted}.*{todo}"):
        check(dtype, *axes)


def test_the_inputs_of_a_graph_have_the_types_and_axes_of_the_file() -> None:
    tiny = Tiny()
    tiny.op("Neg", "x", out="y")
    model = tiny.build({"x": ["batch", 3, ""]}, {"y": ["batch", 3, ""]})
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, [2]))
    x, flag = graph_inputs(model)
    assert (x.dtype, x.axes) == ("float32", ("batch", 3, None))
    assert (flag.dtype, flag.axes) == ("bool", (2,))
