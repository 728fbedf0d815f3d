"""Logits to scores, computed in float64 as in a `TextSession`, and the best class's name.

Runs as `model.py` in Triton's Python backend, with NumPy.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np


class TritonPythonModel:
    """What Triton loads, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read `settings.json`, which lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self._scores = _softmax if settings["problem"] == "single_label" else _sigmoid
        self._labels = np.array([label.encode() for label in settings["labels"]], dtype=np.object_)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in their order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        triton = self._triton
        logits = triton.get_input_tensor_by_name(request, "logits").as_numpy()
        tensors = [
            triton.Tensor("scores", self._scores(logits.astype(np.float64)).astype(np.float32))
        ]
        if self._labels.size:
            best = self._labels[logits.argmax(axis=-1)]
            tensors.append(triton.Tensor("label", best.reshape(*best.shape, 1)))
        return triton.InferenceResponse(output_tensors=tensors)


def _softmax(logits: Any) -> Any:
    """Over the last axis; the largest logit is taken off first, against overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _sigmoid(logits: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow: exp is taken of -|x| alone."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)
