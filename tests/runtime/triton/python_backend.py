"""A strict stand-in for Triton's `triton_python_backend_utils`, and a way to run a `model.py`.

Only what NVIDIA's README of the Python backend documents is here; anything else is an error.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

UTILS = "triton_python_backend_utils"


class Tensor:
    """pb_utils.Tensor(name, numpy_array)."""

    def __init__(self, name: str, array: Any) -> None:
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray)
        # The real one copies the buffer as it lies in memory.
        assert array.flags.c_contiguous
        if array.dtype == np.object_:
            assert all(isinstance(one, bytes) for one in array.reshape(-1))
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class TritonError:
    """pb_utils.TritonError(message, code)."""

    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        assert isinstance(message, str)
        self._message, self.code = message, code

    def message(self) -> str:
        return self._message


class InferenceResponse:
    """pb_utils.InferenceResponse(output_tensors, error)."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        assert all(isinstance(tensor, Tensor) for tensor in output_tensors)
        self.error = error
        self.arrays = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        assert len(self.arrays) == len(output_tensors)


class InferenceRequest:
    """What `execute` is given."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays = {name: Tensor(name, array) for name, array in arrays.items()}


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return request._arrays.get(name)


@contextmanager
def loaded(model: Path, version: str = "1") -> Iterator[LoadedModel]:
    """A model of the Python backend, initialized as the server does it."""
    utils: Any = ModuleType(UTILS)
    for part in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(utils, part.__name__, part)
    before = sys.modules.get(UTILS)
    sys.modules[UTILS] = utils
    try:
        spec = importlib.util.spec_from_file_location("model", model / version / "model.py")
        assert spec is not None
        assert spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
        made = code.TritonPythonModel()
        made.initialize(
            {
                "model_config": "{}",
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
                "model_repository": str(model),
                "model_version": version,
                "model_name": model.name,
            }
        )
        yield LoadedModel(made)
    finally:
        if before is None:
            del sys.modules[UTILS]
        else:
            sys.modules[UTILS] = before


class LoadedModel:
    """Sends requests to a model, and checks what the server checks of its answers."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def execute(self, *requests: dict[str, Any]) -> list[InferenceResponse]:
        responses = self._model.execute([InferenceRequest(arrays) for arrays in requests])
        assert isinstance(responses, list)
        assert len(responses) == len(requests)
        assert len({id(response) for response in responses}) == len(requests)
        assert all(isinstance(response, InferenceResponse) for response in responses)
        return responses


def strings(*texts: str | bytes) -> dict[str, Any]:
    """A request with [B, 1] strings, which the server hands over as bytes."""
    column: Sequence[bytes] = [one if isinstance(one, bytes) else one.encode() for one in texts]
    return {"text": np.array(column, dtype=np.object_).reshape(-1, 1)}
