"""Models whose axes are not the usual ones: fixed lengths and batches, tokens first, no mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.runtime_bundle import make, vouch
from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.buckets import can_pad
from trt_int8.runtime.options import CpuRuntime, SessionOptions
from trt_int8.runtime.session import Session
from trt_int8.runtime.tensors import read_signature

LENGTH = 11
# As wide as long: a size alone does not say what an axis counts.
TABLE = np.random.default_rng(3).integers(0, 9, (20, LENGTH)).astype(np.float32)
RUNTIMES: tuple[CpuRuntime, ...] = ("openvino", "onnxruntime")


def bundle(
    folder: Path, axes: Sequence[int | str], *, mask: bool = True, turned: Sequence[Any] = ()
) -> Path:
    """Rows [B, S, 11] = table[ids] * mask, sums [B, 11]; or only rows turned to [S, B, 11]."""
    node, value = helper.make_node, helper.make_tensor_value_info
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    nodes = [node("Gather", ["table", "input_ids"], ["table_rows"])]
    if mask:
        nodes += [
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask", "last"], ["weights"]),
            node("Mul", ["table_rows", "weights"], ["rows"]),
        ]
    else:
        nodes.append(node("Identity", ["table_rows"], ["rows"]))
    outputs = [value("rows", TensorProto.FLOAT, [*axes, LENGTH])]
    if turned:
        nodes.append(node("Transpose", ["rows"], ["by_place"], perm=[1, 0, 2]))
        nodes.append(node("Reshape", ["by_place", "shape"], ["turned"]))
        outputs = [value("turned", TensorProto.FLOAT, [*turned, LENGTH])]
    else:
        nodes.append(node("ReduceSum", ["rows", "one"], ["sums"], keepdims=0))
        outputs.append(value("sums", TensorProto.FLOAT, [axes[0], LENGTH]))
    constants = {
        "table": TABLE,
        "last": np.array([-1]),
        "one": np.array([1]),
        "shape": np.array([0, 0, LENGTH] if len(turned) == 2 else [-1, LENGTH]),
    }
    graph = helper.make_graph(
        nodes,
        "axes",
        [value(name, TensorProto.INT64, list(axes)) for name in names],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    make(folder)
    onnx.save(model, str(folder / "model.int8.onnx"))
    vouch(folder)
    return folder


def feeds(rows: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng((rows, tokens)).integers(0, len(TABLE), (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def opened(folder: Path, runtime: CpuRuntime, **options: Any) -> Session:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return Session.open(folder, "cpu", options=SessionOptions(runtime=runtime, **options))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_model_of_one_length_takes_shorter_texts_on_every_route(
    tmp_path: Path, runtime: CpuRuntime, batch: int | str
) -> None:
    with opened(bundle(tmp_path / "bundle", (batch, LENGTH)), runtime) as session:
        assert session.buckets is not None
        assert session.buckets.lengths == (LENGTH,)
        for rows, tokens in ((1, 4), (5, LENGTH), (4, 1)):
            request = feeds(rows, tokens)
            expected = TABLE[request["input_ids"]]
            for found in (session.run(request), session.run_async(request).result(20)):
                assert np.array_equal(found["rows"], expected)
                assert np.array_equal(found["sums"], expected.sum(1))
            samples = [{n: array[i] for n, array in request.items()} for i in range(rows)]
            for answer, rows_wanted in zip(session.map(samples), expected, strict=True):
                assert answer.outputs is not None
                assert np.array_equal(answer.outputs["rows"], rows_wanted)
                assert np.array_equal(answer.outputs["sums"], rows_wanted.sum(0))
        with pytest.raises(RequestError, match="12 tokens"):
            session.run(feeds(1, 12))
        assert session.warm_up() == 1


def test_a_model_of_one_length_without_a_mask_is_not_padded(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", ("batch", LENGTH), mask=False)
    assert not can_pad(read_signature(folder / "model.int8.onnx"))
    with opened(folder, "onnxruntime") as session, pytest.raises(RequestError, match="2, 5"):
        session.run({"input_ids": feeds(2, 5)["input_ids"]})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_length_between_fixed_ones_that_cannot_be_padded_is_refused(
    tmp_path: Path, runtime: CpuRuntime
) -> None:
    folder = bundle(tmp_path / "bundle", ("batch", "sequence"), mask=False)
    with opened(folder, runtime, shapes=((1, 4), (2, 8))) as session:
        ids = {"input_ids": feeds(1, 5)["input_ids"]}
        for call in (session.run, session.run_async):
            with pytest.raises(RequestError, match=r"shapes input_ids \[1, 5\]"):
                call(ids)
        (answer,) = session.map([{"input_ids": ids["input_ids"][0]}])
        assert "input_ids [1, 5]" in str(answer.error)
        fitting = {"input_ids": feeds(3, 8)["input_ids"]}
        assert np.array_equal(session.run(fitting)["rows"], TABLE[fitting["input_ids"]])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_output_with_tokens_first_is_cut_along_them(tmp_path: Path, runtime: CpuRuntime) -> None:
    axes = ("batch", "sequence")
    with opened(
        bundle(tmp_path / "bundle", axes, turned=("sequence", "batch")), runtime
    ) as session:
        request = feeds(3, 5)
        expected = TABLE[request["input_ids"]].swapaxes(0, 1)
        assert np.array_equal(session.run(request)["turned"], expected)


def test_an_output_of_all_tokens_in_one_axis_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", ("batch", "sequence"), turned=("all",))
    with opened(folder, "onnxruntime") as session:
        request = feeds(2, 8)
        expected = TABLE[request["input_ids"]].swapaxes(0, 1).reshape(16, LENGTH)
        assert np.array_equal(session.run(request)["turned"], expected)
        with pytest.raises(SessionError, match="padding cannot be cut off"):
            session.run(feeds(2, 5))


def test_a_map_fills_the_fixed_shapes_that_were_asked_for(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", ("batch", "sequence"))
    with opened(folder, "onnxruntime", shapes=((1, 96), (20, 96))) as session:
        request = feeds(40, 90)
        run = session.map({n: array[i] for n, array in request.items()} for i in range(40))
        assert all(answer.error is None for answer in run)
        assert (run.statistics.batches, run.statistics.padded_tokens) == (2, 40 * 96)
