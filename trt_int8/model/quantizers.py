"""Ranges of quantizers inside a checkpoint, as quantization-aware training leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from trt_int8.errors import ModelError, first_line
from trt_int8.model.source import ModelSource

# TensorQuantizer keeps a fixed range in the buffer `_amax`, a learned one in two parameters.
_FIXED = "_quantizer._amax"
_LEARNED = ("_quantizer.clip.clip_value_min", "_quantizer.clip.clip_value_max")


def quantizer_ranges(source: ModelSource) -> dict[str, NDArray[np.float32]]:
    """The amax of each quantizer in the weight files of a local Hugging Face folder.

    Returns:
        By the name of the quantizer, for example
        `encoder.layer.0.output.dense._input_quantizer`; float32, [] or one value per channel.
        Empty for a checkpoint without quantizers, and for a model on a hub.

    Raises:
        ModelError: a weight file is damaged.
    """
    if not source.local or source.kind != "huggingface":
        return {}
    found: dict[str, NDArray[np.float32]] = {}
    learned: dict[str, NDArray[np.float32]] = {}
    for file in _weight_files(source.path):
        try:
            tensors = _read(file)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{str(file)!r} is damaged ({first_line(error)})",
                wanted="intact weights",
                todo="save the model again",
            ) from error
        for key, value in tensors.items():
            suffix = next(s for s in (_FIXED, *_LEARNED) if key.endswith(s))
            name = f"{key.removesuffix(suffix)}_quantizer"
            amax = value.reshape(-1) if value.size > 1 else value.reshape(())
            if suffix in _LEARNED:
                # A learned range is that of its farther end, as TensorQuantizer computes it.
                amax = np.maximum(np.abs(amax), learned.get(name, np.float32(0)))
                learned[name] = amax
            found[name] = amax
    # With learned ranges, the fixed one is only what training began with.
    return dict(sorted((found | learned).items()))


def _weight_files(folder: Path) -> list[Path]:
    """The files transformers would load: safetensors before pickles, shards by their index."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            listed: dict[str, Any] = json.loads((folder / index).read_text(encoding="utf-8"))
            return sorted({folder / str(name) for name in listed["weight_map"].values()})
    return []


def _read(file: Path) -> dict[str, NDArray[np.float32]]:
    if file.suffix == ".safetensors":
        with safe_open(str(file), "pt") as opened:
            picked = {key: opened.get_tensor(key) for key in opened.keys() if _is_range(key)}  # noqa: SIM118
    else:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        picked = {key: value for key, value in loaded.items() if _is_range(key)}
    return {key: value.detach().float().cpu().numpy() for key, value in picked.items()}


def _is_range(key: str) -> bool:
    return key.endswith((_FIXED, *_LEARNED))
