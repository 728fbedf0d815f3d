"""What a transformers model of images or sound reads, from its config."""

from __future__ import annotations

from typing import Any

from trt_int8.model.inputs import ModelInput

# Whisper's encoder halves the frames before it adds the positions: 3000 frames, 1500 positions
# (transformers, WhisperEncoder: conv1.stride * conv2.stride).
_FRAMES_PER_POSITION = 2


def media_input(backbone: Any) -> ModelInput | None:
    """The one float input of a model; None if its config does not fix a size.

    Args:
        backbone: a transformers model whose `main_input_name` is not `input_ids`.

    Returns:
        `pixel_values` [B, channels, height, width], or `input_features` or `input_values` with
        frames and mel bins in the model's order.
    """
    config, name = backbone.config, backbone.main_input_name
    bins, positions = _number(config, "num_mel_bins"), _number(config, "max_source_positions")
    sizes: tuple[int | None, ...] = ()
    if name == "pixel_values":
        sizes = (_number(config, "num_channels"), *_image_size(config))
    elif name == "input_features" and positions is not None:
        sizes = (bins, positions * _FRAMES_PER_POSITION)
    elif name == "input_values" and bins is not None:
        sizes = (_number(config, "max_length"), bins)
    if not sizes or None in sizes:
        return None
    return ModelInput(name, "float32", ("batch", *sizes))


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _image_size(config: Any) -> tuple[int | None, int | None]:
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple) and len(size) == 2:
        return size[0], size[1]
    side = _number(config, "image_size")
    return side, side
