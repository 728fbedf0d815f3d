"""Strings to token ids, padded to one of the lengths that the network is prepared for.

Runs as `model.py` in Triton's Python backend, with NumPy and the library `tokenizers`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class TritonPythonModel:
    """What Triton loads, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer and `settings.json`, which lie beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        tokenizers: Any = importlib.import_module("tokenizers")
        self._settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self._lengths: list[int] = self._settings["lengths"]
        tokenizer_file = folder / "tokenizer" / "tokenizer.json"
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        longest, side = self._settings["max_tokens"], self._settings["truncation_side"]
        self._tokenizer.enable_truncation(longest, direction=side)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in their order; a bad one gets an error of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        triton = self._triton
        try:
            given = triton.get_input_tensor_by_name(request, "text").as_numpy()
            texts = [text.decode("utf-8") for text in given.reshape(-1)]
            arrays = self._encode(texts)
        except (UnicodeDecodeError, ValueError) as error:
            code = triton.TritonError.INVALID_ARG
            return triton.InferenceResponse(
                output_tensors=[], error=triton.TritonError(str(error), code)
            )
        tensors = [triton.Tensor(name, array) for name, array in arrays.items()]
        return triton.InferenceResponse(output_tensors=tensors)

    def _encode(self, texts: list[str]) -> dict[str, Any]:
        """Arrays [B, S] by name, and [B, S, 2] for `offsets`; S is one of the lengths."""
        encodings = self._tokenizer.encode_batch(texts)
        longest = max((len(one.ids) for one in encodings), default=0)
        if longest == 0:
            raise ValueError("the texts have no token; wanted at least one; send a text")
        length = next(size for size in self._lengths if size >= longest)
        side = self._settings["padding_side"]
        arrays = {}
        for name, given in self._settings["inputs"].items():
            array = np.full((len(texts), length), given["pad"], dtype=given["dtype"])
            for row, one in zip(array, encodings, strict=True):
                values = getattr(one, _FIELDS[given["field"]])
                row[_real(len(values), length, side)] = values
            arrays[name] = array
        if self._settings["offsets"]:
            offsets = np.zeros((len(texts), length, 2), dtype=np.int64)
            for row, one in zip(offsets, encodings, strict=True):
                row[_real(len(one.ids), length, side)] = np.array(one.offsets).reshape(-1, 2)
            arrays["offsets"] = offsets
        return arrays


def _real(count: int, length: int, side: str) -> slice:
    """Where the real tokens go."""
    return slice(length - count, length) if side == "left" else slice(count)
