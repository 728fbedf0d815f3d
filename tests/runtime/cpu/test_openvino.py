from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.support.tiny_int8 import WEIGHT, WEIGHT_SCALE, feeds, graph, wanted
from trt_int8.errors import SessionError
from trt_int8.runtime.cpu.graph import cpu_graph
from trt_int8.runtime.cpu.onnxruntime import OnnxRuntimeBackend
from trt_int8.runtime.cpu.openvino import OpenVinoBackend, compiled
from trt_int8.runtime.cpu.options import CpuOptions

pytest.importorskip("openvino", reason="the extra openvino is not installed")
NAMES = ("tokens", "means")


def model() -> bytes:
    return cpu_graph(graph().SerializeToString())


def precisions(backend: OpenVinoBackend, layer: str) -> list[str]:
    """Type that each matmul of the compiled graph computes in."""
    found = []
    for node in backend.compiled_model.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if layer in info["layerType"].astype(str):
            found.append(info["runtimePrecision"].astype(str))
    return found


@pytest.mark.parametrize("shapes", [(), ({"input_ids": (4, 16), "attention_mask": (4, 16)},)])
def test_the_matmul_runs_in_int8(shapes: tuple[dict[str, tuple[int, ...]], ...]) -> None:
    backend = OpenVinoBackend(model(), NAMES, CpuOptions(1, 1, shapes))
    assert precisions(backend, "FullyConnected") == ["i8"]
    backend.close()


def test_without_its_quantizers_it_does_not() -> None:
    made = graph()
    matmul = next(node for node in made.graph.node if node.op_type == "MatMul")
    matmul.input[:] = ["rows", "float_weight"]
    weight = (WEIGHT * WEIGHT_SCALE).astype(np.float16)
    made.graph.initializer.append(numpy_helper.from_array(weight, "float_weight"))
    backend = OpenVinoBackend(cpu_graph(made.SerializeToString()), NAMES, CpuOptions(1))
    assert precisions(backend, "FullyConnected") == ["f32"]
    backend.close()


def test_each_fixed_shape_is_answered_by_its_own_model() -> None:
    shapes = tuple(
        {"input_ids": shape, "attention_mask": shape} for shape in ((1, 8), (2, 8), (2, 24))
    )
    backend = OpenVinoBackend(model(), NAMES, CpuOptions(1, 1, shapes))
    for shape in ((2, 24), (1, 8), (2, 8)):
        request = feeds(*shape)
        outputs = backend.run(request)
        for name in NAMES:
            np.testing.assert_allclose(outputs[name], wanted(request)[name], rtol=1e-6, atol=1e-6)
    backend.close()


@pytest.mark.parametrize("kind", [OpenVinoBackend, OnnxRuntimeBackend])
def test_a_model_that_it_cannot_load_is_an_error_that_says_so(kind: type) -> None:
    made = graph()
    made.graph.node[0].op_type = "NoSuchOperator"
    names = (NAMES,) if kind is OpenVinoBackend else ()
    with pytest.raises(SessionError, match="NoSuchOperator"):
        kind(made.SerializeToString(), *names, CpuOptions(1))


def test_a_request_that_it_cannot_run_is_an_error_and_the_next_one_runs() -> None:
    backend = OnnxRuntimeBackend(model(), CpuOptions(1))
    wrong = feeds(1, 4)
    wrong["input_ids"][0, 0] = 10**6
    with pytest.raises(SessionError, match="cannot run the request"):
        backend.run(wrong)
    request = feeds(2, 4)
    np.testing.assert_allclose(backend.run(request)["means"], wanted(request)["means"], rtol=1e-6)
    backend.close()


@dataclass
class Core:
    """Compiles nothing, and knows only some settings."""

    known: set[str]

    def compile_model(self, _model: str, _device: str, settings: dict[str, Any]) -> dict[str, Any]:
        for name in settings.keys() - self.known:
            raise RuntimeError(f"NotFound: Unsupported property {name} by CPU plugin.")
        return settings


def test_how_much_it_remembers_of_shapes_is_bounded_where_it_can_be() -> None:
    bound = "CPU_RUNTIME_CACHE_CAPACITY"
    assert 0 < compiled(Core({"NUM_STREAMS", bound}), "", {"NUM_STREAMS": 1})[bound] < 5000
    assert compiled(Core({"NUM_STREAMS"}), "", {"NUM_STREAMS": 1}) == {"NUM_STREAMS": 1}
    with pytest.raises(RuntimeError, match="OTHER"):
        compiled(Core({bound}), "", {"OTHER": 1})


def test_this_version_of_openvino_knows_the_bound() -> None:
    core = __import__("openvino").Core()
    settings = {"CPU_RUNTIME_CACHE_CAPACITY": 1000}
    core.compile_model(core.read_model(model(), b""), "CPU", settings)
    with pytest.raises(RuntimeError, match="NO_SUCH"):
        core.compile_model(core.read_model(model(), b""), "CPU", {"NO_SUCH": 1})


def test_without_openvino_as_many_threads_compute_as_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: bytes, settings: Any, **more: Any) -> None:
            seen.append(settings.intra_op_num_threads)
            super().__init__(model, settings, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for threads, workers in ((8, 2), (2, 2), (1, 4), (6, 1)):
        OnnxRuntimeBackend(model(), CpuOptions(threads, workers)).close()
    assert seen == [7, 1, 1, 6]
