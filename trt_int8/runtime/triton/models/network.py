"""The network on the CPU: OpenVINO, or ONNX Runtime where that is not installed.

Runs as `model.py` in Triton's Python backend, with NumPy and one of the two.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_Run = Callable[[dict[str, Any]], list[Any]]


class TritonPythonModel:
    """What Triton loads, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile `model.onnx`, which lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self._inputs: list[str] = settings["inputs"]
        self._outputs: list[str] = settings["outputs"]
        self._joins: bool = settings["batched"]
        path = str(folder / "model.onnx")
        try:
            openvino = importlib.import_module("openvino")
        except ImportError:
            self._run = _onnxruntime(path, self._outputs)
        else:
            self._run = _openvino(openvino, path, self._outputs)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in their order; those of equal shapes run as one batch."""
        feeds = [self._feeds(request) for request in requests]
        groups: dict[object, list[int]] = {}
        for index, one in enumerate(feeds):
            shapes = tuple(one[name].shape[1:] for name in self._inputs)
            groups.setdefault(shapes if self._joins else index, []).append(index)
        responses: list[Any] = [None] * len(requests)
        for members in groups.values():
            answers = self._answers([feeds[index] for index in members])
            for index, answer in zip(members, answers, strict=True):
                responses[index] = answer
        return responses

    def _feeds(self, request: Any) -> dict[str, Any]:
        find = self._triton.get_input_tensor_by_name
        return {name: find(request, name).as_numpy() for name in self._inputs}

    def _answers(self, feeds: list[dict[str, Any]]) -> list[Any]:
        triton = self._triton
        if len(feeds) == 1:
            joined = feeds[0]
        else:
            joined = {name: np.concatenate([one[name] for one in feeds]) for name in self._inputs}
        try:
            outputs = self._run(joined)
        except Exception as error:  # noqa: BLE001 - it must not take the server down
            text = f"{type(error).__name__}: {error}"
            return [
                triton.InferenceResponse(output_tensors=[], error=triton.TritonError(text))
                for _ in feeds
            ]
        if len(feeds) == 1:
            return [self._response(outputs)]
        ends = np.cumsum([one[self._inputs[0]].shape[0] for one in feeds])[:-1]
        parts = [np.split(array, ends) for array in outputs]
        return [self._response(list(each)) for each in zip(*parts, strict=True)]

    def _response(self, arrays: list[Any]) -> Any:
        pairs = zip(self._outputs, arrays, strict=True)
        tensors = [self._triton.Tensor(name, np.ascontiguousarray(array)) for name, array in pairs]
        return self._triton.InferenceResponse(output_tensors=tensors)


def _openvino(openvino: Any, path: str, outputs: list[str]) -> _Run:
    settings = {
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # CPUs with AMX would compute all that is not INT8 in bfloat16, which costs accuracy.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(feeds: dict[str, Any]) -> list[Any]:
        result = request.infer(feeds)
        return [result[name].copy() for name in outputs]

    return run


def _onnxruntime(path: str, outputs: list[str]) -> _Run:
    session = importlib.import_module("onnxruntime").InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )

    def run(feeds: dict[str, Any]) -> list[Any]:
        return list(session.run(outputs, feeds))

    return run
