"""Read TensorRT's engine inspector JSON (versions 8.6, 10 and 11).

Version 10 names a tensor's type `Format/Datatype` and lists weights among the inputs; 11 has
`Datatype` and `Format` apart and lists weights under `Constants`. TensorRT 8.6 shows a
Transformer as one opaque Myelin layer: nothing can be proven from it.
"""

from __future__ import annotations

import json
from typing import Any

from trt_int8.engine.evidence import (
    EngineLayer,
    EngineTensor,
    data_type,
    layer_kind,
    onnx_nodes,
    with_profiles,
)
from trt_int8.errors import CoverageError

_REMEDY = "build with ProfilingVerbosity.DETAILED"


def parse(text: str) -> tuple[EngineLayer, ...]:
    """Turn the JSON into layers.

    Raises:
        CoverageError: it is not such JSON, a layer has an unknown form, or the engine was built
            without details.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CoverageError(
            f"the engine inspector's text is not JSON with 'Layers' ({error})",
            wanted="EngineInspector.get_engine_information(JSON)",
            todo=_REMEDY,
        ) from error
    if not isinstance(layers, list):
        raise _unknown_form(layers)
    if not layers or any(isinstance(layer, str) for layer in layers):
        raise CoverageError(
            "the engine lists layer names only", wanted="layers with data types", todo=_REMEDY
        )
    return with_profiles(_checked_layer(layer) for layer in layers)


def _checked_layer(layer: Any) -> EngineLayer:
    try:
        return _layer(layer)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unknown_form(layer) from error


def _unknown_form(layer: object) -> CoverageError:
    return CoverageError(
        f"a layer in the engine inspector's text has an unknown form: {str(layer)[:80]!r}",
        wanted="Name, LayerType, Inputs, Outputs, Metadata",
        todo="use a TensorRT version from 8.6 to 11",
    )


def _layer(layer: dict[str, Any]) -> EngineLayer:
    name, constants = str(layer["Name"]), _tensors(layer.get("Constants"))
    inputs = _tensors(layer.get("Inputs"))
    if "Constants" not in layer:
        constants = tuple(t for t in inputs if "dconst" in t.name or "constant" in t.name.lower())
        inputs = tuple(t for t in inputs if t not in constants)
    return EngineLayer(
        name=name,
        kind=layer_kind(str(layer.get("LayerType", "")), name),
        inputs=inputs,
        constants=constants,
        outputs=_tensors(layer.get("Outputs")),
        onnx_nodes=onnx_nodes(str(layer.get("Metadata", ""))),
    )


def _tensors(entries: list[dict[str, Any]] | None) -> tuple[EngineTensor, ...]:
    keys = ("Datatype", "DataType", "Format/Datatype")
    return tuple(
        EngineTensor(str(e["Name"]), data_type(str(next((e[k] for k in keys if k in e), ""))))
        for e in entries or ()
    )
