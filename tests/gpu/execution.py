"""Run a serialised engine on the GPU through cuda-python's runtime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def execute(plan: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Run an engine once; fills the arrays in `outputs`, which have the shapes it gives.

    Args:
        plan: the serialised engine, as a buffer.
        inputs: by tensor name, C-contiguous.
        outputs: by tensor name, C-contiguous.
    """
    trt = importlib.import_module("tensorrt")
    cudart = importlib.import_module("cuda.bindings.runtime")
    kinds = cudart.cudaMemcpyKind
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(bytes(plan))
    assert engine is not None, "the engine cannot be loaded"
    context = engine.create_execution_context()
    arrays = {**inputs, **outputs}
    stream = _checked(cudart.cudaStreamCreate())
    places = {name: _checked(cudart.cudaMalloc(a.nbytes)) for name, a in arrays.items()}
    try:
        for name, array in inputs.items():
            copy = (places[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
            _checked(cudart.cudaMemcpy(*copy))
            assert context.set_input_shape(name, array.shape)
        for name, array in outputs.items():
            # No old answer may pass for a new one.
            _checked(cudart.cudaMemset(places[name], 0xA5, array.nbytes))
            assert tuple(context.get_tensor_shape(name)) == array.shape
        for name, place in places.items():
            assert context.set_tensor_address(name, int(place))
        assert context.execute_async_v3(int(stream))
        _checked(cudart.cudaStreamSynchronize(stream))
        for name, array in outputs.items():
            copy = (array.ctypes.data, places[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
            _checked(cudart.cudaMemcpy(*copy))
    finally:
        for place in places.values():
            _checked(cudart.cudaFree(place))
        _checked(cudart.cudaStreamDestroy(stream))


def steps_apart(got: Array, wanted: Array) -> NDArray[np.float64]:
    """How many INT8 steps (int8), or last places of a half at its size (float16), lie between."""
    if wanted.dtype == np.int8:
        return np.abs(got.astype(np.float64) - wanted)
    place = np.spacing(np.maximum(np.abs(wanted), np.float16(2.0**-14))).astype(np.float64)
    return np.abs(got.astype(np.float64) - wanted.astype(np.float64)) / place


def _checked(answer: tuple[Any, ...]) -> Any:
    assert int(answer[0]) == 0, f"CUDA error {answer[0]}"
    return answer[1] if len(answer) > 1 else None
