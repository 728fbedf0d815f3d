"""OpenVINO with NNCF's post-training quantization, and with optimum-intel's arguments to it."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import openvino
import torch

from scripts.runtime_peers.context import Context, Prepared
from scripts.runtime_peers.openvino_peer import prepare_model, read_model


def prepare(
    context: Context, *, front_end: str, preset: str, precision: str, fixed: bool = False
) -> Prepared:
    """`nncf.quantize` with model_type TRANSFORMER.

    Args:
        context: the model and the samples to calibrate with.
        front_end: `onnx` or `torch`, where OpenVINO takes the float model from.
        preset: name of a `QuantizationPreset`: MIXED has activations in u8 with a zero point,
            PERFORMANCE symmetric ones.
        precision: OpenVINO's inference precision for what stays float.
        fixed: compile for every shape.
    """
    nncf = importlib.import_module("nncf")
    count = len(context.calibration)
    arguments = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": getattr(nncf.QuantizationPreset, preset),
        "subset_size": count,
    }
    path = _quantized(context, front_end, preset.lower(), arguments)
    settings = {"precision": precision, "front_end": front_end, **_told(arguments)}
    return prepare_model(context, read_model(path), settings, fixed=fixed)


def prepare_optimum(context: Context, *, precision: str) -> Prepared:
    """What `OVQuantizationConfig()` of optimum-intel 2.2.0 passes to NNCF, on a PyTorch model.

    optimum-intel needs transformers below 5.6, so it cannot be installed beside ours; its
    `OVQuantizationConfig.to_nncf_dict` (optimum/intel/openvino/configuration.py) gives these
    arguments by default, and `_full_quantization` calls `nncf.quantize` with nothing else.
    """
    nncf = importlib.import_module("nncf")
    advanced = nncf.AdvancedQuantizationParameters()
    advanced.overflow_fix = nncf.OverflowFix("disable")
    arguments = {
        "model_type": nncf.ModelType("transformer"),
        "preset": nncf.QuantizationPreset("mixed"),
        "subset_size": 128,
        "fast_bias_correction": True,
        "advanced_parameters": advanced,
    }
    path = _quantized(context, "torch", "optimum", arguments)
    settings = {"precision": precision, "front_end": "torch", **_told(arguments)}
    return prepare_model(context, read_model(path), settings)


def _quantized(context: Context, front_end: str, name: str, arguments: dict[str, Any]) -> Path:
    """File of the quantized model; made once for all precisions."""
    path = context.folder / f"nncf_{front_end}_{name}.xml"
    if not path.exists():
        nncf = importlib.import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        model = read_model(context.float_onnx) if front_end == "onnx" else _from_torch(context)
        samples = nncf.Dataset(context.calibration)
        quantized = nncf.quantize(model, samples, **arguments)
        openvino.save_model(quantized, path, compress_to_fp16=False)
    return path


def _told(arguments: dict[str, Any]) -> dict[str, Any]:
    named = {name: str(value) for name, value in arguments.items() if name != "advanced_parameters"}
    return {"nncf.quantize": named}


def _from_torch(context: Context) -> Any:
    names = context.model.input_names
    example = tuple(torch.from_numpy(context.calibration[0][name]) for name in names)
    shapes = [openvino.PartialShape([-1, -1])] * len(names)
    with torch.no_grad():
        model = openvino.convert_model(
            context.model.wrapper, example_input=example, input=list(zip(shapes, strict=True))
        )
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    return model
