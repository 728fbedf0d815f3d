"""Which sessions compute the keys transposed, and what OpenVINO makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.keys_graph import GRID, PLAIN, B, K, S, attention, codes
from tests.support.runtime_bundle import make, vouch
from trt_int8.runtime import opening
from trt_int8.runtime.cpu import openvino as backend_module
from trt_int8.runtime.cpu.graph import cpu_graph
from trt_int8.runtime.cpu.keys import transpose_keys
from trt_int8.runtime.cpu.onnxruntime import OnnxRuntimeBackend
from trt_int8.runtime.cpu.openvino import OpenVinoBackend
from trt_int8.runtime.cpu.options import CpuOptions
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session
from trt_int8.spec.shapes import InputShape

SHAPES = ((1, 8), (B, S))
VOCABULARY = 40
Fixed = tuple[dict[str, tuple[int, ...]], ...]


def model() -> onnx.ModelProto:
    """From token ids to scores."""
    made = attention(*PLAIN)
    table = codes(VOCABULARY, K, seed=8).astype(np.float32) * np.float32(GRID)
    gather = onnx.helper.make_node("Gather", ["table", "input_ids"], ["x"])
    axes = ["batch", "sequence"]
    del made.graph.input[:]
    made.graph.input.append(onnx.helper.make_tensor_value_info("input_ids", 7, axes))
    made.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    made.graph.node.insert(0, gather)
    return made


def ids(batch: int, length: int) -> dict[str, NDArray[np.int64]]:
    return {"input_ids": np.arange(batch * length).reshape(batch, length) % VOCABULARY}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make(tmp_path)
    for name in ("model.int8.onnx", "model.fp16.onnx"):
        onnx.save(model(), str(tmp_path / name))
    profile = InputShape(name="input_ids", min=(1, 2), opt=(2, 8), max=(4, 32))
    vouch(tmp_path, profiles=((profile,),))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Fixed]:
    """The shapes of each call of the pass, which does what it does."""
    seen: list[Fixed] = []

    def note(graph: bytes, shapes: Fixed) -> bytes:
        seen.append(tuple(shapes))
        return transpose_keys(graph, shapes)

    monkeypatch.setattr(backend_module, "transpose_keys", note)
    return seen


def scores(bundle: Path, options: SessionOptions) -> list[NDArray[np.float32]]:
    with Session.open(bundle, "cpu", options=options) as session:
        return [session.run(ids(*shape))["scores"] for shape in SHAPES]


def int8_transposes(backend: OpenVinoBackend) -> list[str]:
    """Those that run with each request: of weights they run once."""
    found = []
    for node in backend.compiled_model.get_runtime_model().get_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        source = node.input(0).get_source_output().get_node() if node.inputs() else node
        is_weight = source.get_rt_info()["layerType"].astype(str) == "Const"
        if info["layerType"] == "Transpose" and not is_weight:
            assert info["runtimePrecision"] == "i8"
            found.append(node.get_friendly_name())
    return found


def compiled(shapes: Fixed) -> OpenVinoBackend:
    graph = cpu_graph(model().SerializeToString())
    return OpenVinoBackend(graph, ("scores",), CpuOptions(1, 1, shapes))


def test_openvino_transposes_no_int8_keys_of_fixed_shapes_and_answers_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    fixed: Fixed = ({"input_ids": (B, S)},)
    new = compiled(fixed)
    monkeypatch.setattr(backend_module, "transpose_keys", lambda graph, _shapes: graph)
    old = compiled(fixed)
    assert "node_turned" in int8_transposes(old)
    assert set(int8_transposes(old)) - set(int8_transposes(new)) == {"node_turned"}
    matmuls = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in new.compiled_model.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("MatMul", "FullyConnected")
    ]
    assert matmuls == ["i8"] * 3
    before, after = (each.run(ids(B, S))["scores"] for each in (old, new))
    assert np.ptp(before) > 0
    np.testing.assert_allclose(before, after, rtol=1e-6)
    for each in (old, new):
        each.close()


def test_a_session_with_fixed_shapes_has_the_pass_for_them_all(
    bundle: Path, calls: list[Fixed]
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    fixed = scores(bundle, SessionOptions(runtime="openvino", shapes=SHAPES))
    assert calls == [tuple({"input_ids": shape} for shape in sorted(SHAPES))]
    for one, two in zip(fixed, scores(bundle, SessionOptions(runtime="openvino")), strict=True):
        assert np.ptp(one) > 0
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_session_for_any_shape_has_the_graph_as_it_was(bundle: Path, calls: list[Fixed]) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with Session.open(bundle, "cpu", options=SessionOptions(runtime="openvino")):
        assert calls == []


def test_onnx_runtime_has_the_graph_as_it_was(
    bundle: Path, calls: list[Fixed], monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[bytes] = []

    def start(graph: bytes, options: CpuOptions) -> OnnxRuntimeBackend:
        models.append(graph)
        return OnnxRuntimeBackend(graph, options)

    monkeypatch.setattr(opening, "OnnxRuntimeBackend", start)
    scores(bundle, SessionOptions(runtime="onnxruntime", shapes=SHAPES))
    assert models == [cpu_graph((bundle / "model.int8.onnx").read_bytes())]
    assert calls == []
