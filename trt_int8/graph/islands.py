"""Islands of float32 in an FP16 twin, around tensors that float16 may not hold.

What makes or reads such a tensor computes in float32. A matmul does not: TensorRT refuses one in
float32 on SM75 ("FP32 GEMM is not supported", TensorRT-RTX 1.7). It multiplies operands that were
divided by a power of two, and its result is multiplied by it again in float32. A power of two
changes the exponent alone, so nothing is rounded, but for numbers that get too small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from trt_int8.calibrate.overflow import near_overflow
from trt_int8.calibrate.study import FP16_MARGIN_PEAK
from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames
from trt_int8.spec.overflow import Overflow

GEMM_OPS: Final = ("MatMul", "Gemm", "Einsum", "Conv")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_LAYOUT_OPS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def overflows_of(model: onnx.ModelProto, peaks: Mapping[str, float]) -> tuple[Overflow, ...]:
    """What `to_half` does about each tensor that float16 may not hold.

    Args:
        model: float32 graph in normal form.
        peaks: largest |x| by tensor.
    """
    hot = near_overflow(peaks)
    around: dict[str, list[ir.Node]] = {}
    for node in ir.from_proto(model).graph:
        for name in _tensors(node) & set(hot):
            around.setdefault(name, []).append(node)
    return tuple(
        Overflow(
            tensor=name,
            peak=peak,
            float_nodes=tuple(str(n.name) for n in around[name] if n.op_type not in GEMM_OPS),
            scaled_nodes=tuple(str(n.name) for n in around[name] if n.op_type in GEMM_OPS),
        )
        for name, peak in hot.items()
        if name in around
    )


def make_islands(graph: ir.Graph, peaks: Mapping[str, float]) -> frozenset[ir.Node]:
    """Scale the matmuls around tensors that float16 may not hold; in place.

    Args:
        graph: float32, in normal form.
        peaks: largest |x| by tensor.

    Returns:
        The nodes that have to compute in float32.
    """
    hot = near_overflow(peaks)
    return _Islands(graph, peaks).run(hot) if hot else frozenset()


def _tensors(node: ir.Node) -> set[str]:
    return {str(value.name) for value in (*node.inputs, *node.outputs) if value is not None}


class _Islands:
    def __init__(self, graph: ir.Graph, peaks: Mapping[str, float]) -> None:
        self._graph, self._peaks = graph, peaks
        self._names = TensorNames(graph)
        self._held: set[ir.Node] = set()

    def run(self, hot: Mapping[str, float]) -> frozenset[ir.Node]:
        for node in list(self._graph):
            if not _tensors(node) & set(hot) or node.op_type in _QDQ:
                continue
            if node.op_type in GEMM_OPS:
                self._scale(node)
            else:
                self._held.add(node)
        return frozenset(self._held)

    def _scale(self, node: ir.Node) -> None:
        """Divide the operands until operands and result fit, and multiply the result back."""
        powers = [_power(self._peak(value)) for value in node.inputs[:2]]
        missing = _power(self._peak(node.outputs[0])) - sum(powers)
        if missing > 0:
            # The larger operand has more room to shrink in.
            larger = max((0, 1), key=lambda index: self._peak(node.inputs[index]))
            powers[larger] += missing
        for index, power in enumerate(powers):
            self._divide(node, index, power)
        if len(node.inputs) > 2:
            self._divide(node, 2, sum(powers))
        self._multiply_back(node, sum(powers))

    def _peak(self, value: ir.Value | None) -> float:
        stored = qdq.quantized_constant(value)
        array = qdq.constant(value) if stored is None else qdq.dequantized(stored)
        if array is not None:
            return float(np.abs(array).max(initial=0.0))
        return self._peaks.get(str(value.name), 0.0) if value is not None else 0.0

    def _divide(self, node: ir.Node, index: int, power: int) -> None:
        value = node.inputs[index]
        if value is None or power == 0:
            return
        factor = np.float32(2.0**-power)
        array = qdq.constant(value)
        if array is not None:
            name = self._names.fresh(f"{value.name}_scaled")
            node.replace_input_with(index, qdq.add_initializer(self._graph, name, array * factor))
        elif not _divide_scale(self._graph, self._names, (node, index), factor):
            scaled = self._mul(value, factor, f"{value.name}_scaled")
            self._graph.insert_before(node, scaled)
            node.replace_input_with(index, scaled.outputs[0])

    def _multiply_back(self, node: ir.Node, power: int) -> None:
        result = node.outputs[0]
        if power == 0:
            return
        name, users = str(result.name), tuple(result.uses())
        result.name = self._names.fresh(f"{name}_scaled")
        restored = self._mul(result, np.float32(2.0**power), name)
        restored.outputs[0].name = name
        self._graph.insert_after(node, restored)
        for user, index in users:
            user.replace_input_with(index, restored.outputs[0])
        for index, output in enumerate(self._graph.outputs):
            if output is result:
                # A type of its own: that of `result` becomes half.
                restored.outputs[0].dtype = ir.DataType.FLOAT
                restored.outputs[0].shape = result.shape
                self._graph.outputs[index] = restored.outputs[0]

    def _mul(self, value: ir.Value, factor: np.float32, name: str) -> ir.Node:
        constant = qdq.add_initializer(
            self._graph, self._names.fresh(f"{name}_factor"), np.asarray(factor)
        )
        node = ir.Node("", "Mul", [value, constant], name=f"{name}/Mul")
        node.outputs[0].name = self._names.fresh(name)
        self._held.add(node)
        return node


def _divide_scale(
    graph: ir.Graph, names: TensorNames, place: tuple[ir.Node, int], factor: np.float32
) -> bool:
    """Give an operand a DQ of its own with a smaller scale; False if there is no DQ behind it.

    A Mul between DQ and matmul would cost the INT8 kernel.

    Args:
        graph: changed in place.
        names: of the graph.
        place: the matmul and the index of its operand.
        factor: for the scale.
    """
    node, index = place
    value = node.inputs[index]
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in _LAYOUT_OPS and value is not None:
        if len(value.uses()) > 1:
            return False
        node, index, value = producer, 0, producer.inputs[0]
        producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.op_type != "DequantizeLinear":
        return False
    scale = qdq.constant(producer.inputs[1])
    if scale is None:
        return False
    new = qdq.add_initializer(graph, names.fresh(f"{value.name}_scale"), scale * factor)
    inputs = [new if i == 1 else given for i, given in enumerate(producer.inputs)]
    copy = ir.Node(
        "", "DequantizeLinear", inputs, producer.attributes.values(), name=f"{producer.name}_scaled"
    )
    copy.outputs[0].name = names.fresh(f"{value.name}_scaled")
    graph.insert_before(node, copy)
    node.replace_input_with(index, copy.outputs[0])
    return True


def _power(peak: float) -> int:
    """The least k for which peak / 2^k is no longer near the end of float16."""
    if not math.isfinite(peak) or peak <= FP16_MARGIN_PEAK:
        return 0
    return math.ceil(math.log2(peak / FP16_MARGIN_PEAK))
