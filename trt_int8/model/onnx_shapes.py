"""Shapes of the tensors of an ONNX graph, as far as they can be known without running it."""

from __future__ import annotations

import math

import onnx

# Initializers up to this size may be shapes, whose numbers shape inference needs.
_SHAPE_ELEMENTS = 64

# Sizes given to dynamic axes on trial: larger than most strides, smaller than most limits.
_TRIED = (37, 51)

Dims = tuple[int | None, ...]


def infer_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Dimensions by tensor name; None for one that is dynamic or not known.

    ONNX shape inference with data propagation, over a copy without the large weights.

    Args:
        model: a graph whose constants are initializers.

    Returns:
        What is known; nothing if ONNX finds the graph inconsistent.
    """
    return _infer(_without_weights(model))


def infer_fixed_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """As `infer_dims`, and with sizes that only arithmetic on shapes gives, such as a head size.

    What is the same for two sizes of every dynamic axis counts as fixed.
    """
    found = _infer(_without_weights(model))
    one, two = infer_trial_dims(model)
    for name in one.keys() & two.keys():
        first, second = one[name], two[name]
        old = found.get(name, (None,) * len(first))
        if len(first) == len(second) == len(old):
            same = (a if a == b else None for a, b in zip(first, second, strict=True))
            found[name] = tuple(o or s for o, s in zip(old, same, strict=True))
    return found


def infer_trial_dims(model: onnx.ModelProto) -> tuple[dict[str, Dims], dict[str, Dims]]:
    """Dimensions by tensor name, for two sizes of every dynamic axis."""
    light = _without_weights(model)
    one, two = (_infer(_with_sizes(light, start)) for start in _TRIED)
    return one, two


def infer_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor name, as numbers of `TensorProto.DataType`."""
    light = _without_weights(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(light).graph
    except onnx.shape_inference.InferenceError:
        return {}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}


def _with_sizes(light: onnx.ModelProto, start: int) -> onnx.ModelProto:
    """A copy whose dynamic axes have sizes from `start` on, another one for each name."""
    sized = onnx.ModelProto()
    sized.CopyFrom(light)
    sizes: dict[str, int] = {}
    for value in sized.graph.input:
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                name = dim.dim_param or f"{value.name}.{number}"
                dim.dim_value = sizes.setdefault(name, start + len(sizes))
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    return sized


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.name = model.graph.name or "graph"
    light.functions.extend(model.functions)
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_ELEMENTS:
            light.graph.initializer.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(info)
    return light


def _infer(light: onnx.ModelProto) -> dict[str, Dims]:
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return {}
    return {
        value.name: _dims(value)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )
