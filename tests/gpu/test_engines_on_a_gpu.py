"""What only a machine with an NVIDIA GPU and `pip install trt-int8[tensorrt]` can show.

Never run where this was written: there was no GPU. `make test-gpu` runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.attention_block import build, not_int8, request_for
from trt_int8.engine import inspector, selftest
from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.flavour import local_sm
from trt_int8.evaluate.compare import run
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.coverage import EngineCoverage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="needs the package tensorrt: pip install 'trt-int8[tensorrt]'",
    ),
    pytest.mark.skipif(local_sm() is None, reason="needs an NVIDIA GPU with its driver"),
]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildRequest]:
    """Both controls, built by TensorRT for the card in this machine."""
    folder = tmp_path_factory.mktemp("gpu")
    made = {}
    makers = {"positive": selftest.positive_control, "negative": selftest.negative_control}
    for name, make in makers.items():
        onnx.save(make(), str(folder / f"{name}.onnx"))
        made[name] = request_for(folder / f"{name}.onnx", None, Flavour.TENSORRT).model_copy(
            update={"timing_cache": str(folder / "timing.cache")}
        )
    build(made)
    return made


def coverage(request: BuildRequest) -> EngineCoverage:
    layers = inspector.parse(Path(request.evidence_path).read_text(encoding="utf-8"))
    sites = find_matmuls(onnx.load(request.onnx_path))
    return cover(sites, Evidence("engine inspector", "local", layers, None), "int8", None)


def test_the_inspector_names_every_matmul(requests: dict[str, BuildRequest]) -> None:
    runs = {node.node: node.runs for node in coverage(requests["positive"]).nodes}
    assert set(runs) == set(selftest.ALL_NODES)
    assert "unmapped" not in runs.values(), runs


def test_the_linears_of_the_positive_control_run_int8(requests: dict[str, BuildRequest]) -> None:
    assert not_int8(coverage(requests["positive"])).isdisjoint({"q", "k", "v", "out"})


def test_the_linear_without_qdq_is_not_int8(requests: dict[str, BuildRequest]) -> None:
    assert "out" in not_int8(coverage(requests["negative"]))


def test_the_timing_cache_was_written(requests: dict[str, BuildRequest]) -> None:
    cache = requests["positive"].timing_cache
    assert cache is not None
    assert Path(cache).stat().st_size > 0


def test_the_engine_answers_like_onnx_runtime(requests: dict[str, BuildRequest]) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python to run an engine")
    x = np.random.default_rng(7).standard_normal((2, 33, 64)).astype(np.float32)
    request = requests["positive"]
    batch: Any = {"x": x}
    wanted = run(Path(request.onnx_path), [batch], lambda: None)[0]["out"]
    got = execute(Path(request.engine_path), x)
    # Q/DQ rounds to steps of amax / 127; kernels may round a value on a border the other way.
    noise = np.sqrt(np.mean((got - wanted) ** 2)) / np.sqrt(np.mean(wanted**2))
    assert noise < 0.05


def execute(engine_path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an engine with input `x` and an output `out` of the same shape, float32."""
    trt = importlib.import_module("tensorrt")
    cudart = importlib.import_module("cuda.bindings.runtime")

    def checked(answer: tuple[Any, ...]) -> Any:
        assert int(answer[0]) == 0, f"CUDA error {answer[0]}"
        return answer[1] if len(answer) > 1 else None

    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(engine_path.read_bytes())
    context = engine.create_execution_context()
    out = np.zeros_like(x)
    buffers = {name: checked(cudart.cudaMalloc(x.nbytes)) for name in ("x", "out")}
    stream = checked(cudart.cudaStreamCreate())
    kinds = cudart.cudaMemcpyKind
    try:
        to_device = kinds.cudaMemcpyHostToDevice
        checked(cudart.cudaMemcpy(buffers["x"], x.ctypes.data, x.nbytes, to_device))
        assert context.set_input_shape("x", x.shape)
        for name, address in buffers.items():
            assert context.set_tensor_address(name, int(address))
        assert context.execute_async_v3(int(stream))
        checked(cudart.cudaStreamSynchronize(stream))
        to_host = kinds.cudaMemcpyDeviceToHost
        checked(cudart.cudaMemcpy(out.ctypes.data, buffers["out"], out.nbytes, to_host))
    finally:
        for address in buffers.values():
            checked(cudart.cudaFree(address))
        checked(cudart.cudaStreamDestroy(stream))
    return out
