"""Sizes of the tensors of a graph for inputs of fixed shapes: numbers, or symbols of equal ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from trt_int8.runtime.tensors import Shape

# A number, or a symbol: two tensors with one symbol have the same size there. None: not known.
Sizes = tuple[int | str | None, ...]
# Larger constants are no shapes.
_SHAPE_ELEMENTS = 64


class FixedSizes:
    """Infers sizes, again for each shape of the inputs."""

    def __init__(self, model: bytes) -> None:
        """Keep an ONNX file without its weights."""
        self._light = onnx.load_model_from_string(model)
        graph = self._light.graph
        small = [each for each in graph.initializer if math.prod(each.dims) <= _SHAPE_ELEMENTS]
        large = [
            onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims)
            for each in graph.initializer
            if math.prod(each.dims) > _SHAPE_ELEMENTS
        ]
        self._inputs = len(graph.input)
        del graph.initializer[:]
        # What is stated there may be of other shapes.
        del graph.value_info[:]
        graph.initializer.extend(small)
        graph.input.extend(large)

    def of(self, shapes: Mapping[str, Shape]) -> dict[str, Sizes]:
        """By tensor name, for inputs of these shapes; nothing if ONNX finds it inconsistent.

        A size of 1 that is joined with one that ONNX does not know is a symbol.
        """
        for value in self._light.graph.input[: self._inputs]:
            dims, given = value.type.tensor_type.shape.dim, shapes.get(value.name, ())
            for dim, size in zip(dims, given, strict=False):
                dim.dim_value = size
        try:
            inferred = onnx.shape_inference.infer_shapes(self._light, data_prop=True).graph
        except onnx.shape_inference.InferenceError:
            return {}
        return {
            value.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in value.type.tensor_type.shape.dim
            )
            for value in (*inferred.input, *inferred.value_info)
        }
