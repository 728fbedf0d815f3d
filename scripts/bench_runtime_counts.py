"""Multiply-adds and bytes of a model, and what this CPU could do with them at best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper as make
import onnx_ir as ir
import onnxruntime

from trt_int8.model.onnx_matmuls import comes_from_dequantize, weight_shape


@dataclass(frozen=True)
class Work:
    """What the matmuls of one request need.

    Attributes:
        int8: multiply-adds of matmuls with two quantized operands.
        floating: multiply-adds of the others.
        weight_bytes: of constant operands, 1 byte each in INT8 matmuls, else `float_bytes`.
        activation_bytes: of operands read and results written once each, in the same widths.
    """

    int8: int
    floating: int
    weight_bytes: int
    activation_bytes: int

    @property
    def moved_bytes(self) -> int:
        """All bytes, if every tensor goes to memory and back once."""
        return self.weight_bytes + self.activation_bytes


@dataclass(frozen=True)
class Peak:
    """What the CPU was seen to do.

    Attributes:
        int8_per_s: multiply-adds per second of a large INT8 matmul.
        float_per_s: the same in the float type that stays.
        bytes_per_s: read from memory.
    """

    int8_per_s: float
    float_per_s: float
    bytes_per_s: float


def count_work(model: onnx.ModelProto, sizes: Mapping[str, int], float_bytes: int = 4) -> Work:
    """Count the MatMul and Gemm nodes of a graph.

    [.., M, K] x [.., K, N] takes M*N*K multiply-adds per matrix of the leading axes.

    Args:
        model: a float or Q/DQ graph.
        sizes: of every dynamic axis, by its name.
        float_bytes: of one value where it is not INT8.

    Raises:
        ValueError: the size of an input is not known.
    """
    shapes = _shapes(model, sizes)
    int8 = floating = weights = activations = 0
    for node in ir.from_proto(model).graph:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        operands = (*node.inputs[:2], node.outputs[0])
        left, right, out = (shapes[value.name or ""] for value in operands if value is not None)
        transposed = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
        adds = math.prod(out) * left[-2 if transposed else -1]
        quantized = all(comes_from_dequantize(value) for value in node.inputs[:2])
        width = 1 if quantized else float_bytes
        int8 += adds * quantized
        floating += adds * (not quantized)
        constant = weight_shape(node) is not None
        weights += math.prod(right) * width * constant
        inputs = math.prod(left) + math.prod(right) * (not constant)
        activations += inputs * width + math.prod(out) * float_bytes
    return Work(int8, floating, weights, activations)


def least_seconds(work: Work, peak: Peak) -> float:
    """The matmuls back to back at the measured peak, or the bytes at the bandwidth if that is more.

    Softmax, GELU, LayerNorm, quantizing and the copies between layouts are not in it.
    """
    compute = work.int8 / peak.int8_per_s + work.floating / peak.float_per_s
    return max(compute, work.weight_bytes / peak.bytes_per_s)


def _shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all operands and results of matmuls, seen by running the graph on ones.

    Shape inference does not get through the reshapes of every export.
    """
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dims = [dim.dim_value or sizes.get(dim.dim_param, 0) for dim in kind.shape.dim]
        if not all(dims):
            raise ValueError(f"the shape of {value.name!r} is not known: {dims}")
        feeds[value.name] = np.ones(dims, make.tensor_dtype_to_np_dtype(kind.elem_type))
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))
    names = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    wanted = sorted(names - constants.keys() - feeds.keys())
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    # Only what is written in the graph, not what could be fused.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        opened.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    arrays = zip(wanted, session.run(wanted, feeds), strict=True)
    given = {name: array.shape for name, array in feeds.items()}
    return constants | given | {name: array.shape for name, array in arrays}
