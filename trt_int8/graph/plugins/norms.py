"""LayerNorm as one operator, and RMSNorm in parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trt_int8.graph import qdq
from trt_int8.graph.plugins.operands import LayoutWriter
from trt_int8.graph.plugins.walk import behind_casts, maker, number, vector

# Default of LayerNormalization (ONNX specification, LayerNormalization-17).
_DEFAULT_EPSILON = 1e-5
# X, scale and B of the same operator.
_INPUTS = 3


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        source: what it reads, before any Cast.
        result: what it gives, before any Cast.
        gamma: constant [H].
        beta: the same, or None.
        epsilon: added to the variance, or the mean square.
        nodes: its nodes, Casts among them.
        is_rms: the mean is not subtracted.
    """

    source: ir.Value
    result: ir.Value
    gamma: ir.Value
    beta: ir.Value | None
    epsilon: float
    nodes: tuple[ir.Node, ...]
    is_rms: bool = False


def beta_of(norm: Norm, layouts: LayoutWriter) -> ir.Value:
    """Beta of a LayerNorm, which is given one of zeros where it has none: -0 becomes 0 at most."""
    if norm.beta is not None:
        return norm.beta
    gamma, node = qdq.constant(norm.gamma), maker(norm.result, "LayerNormalization")
    assert gamma is not None
    assert node is not None
    beta = layouts.constant("no_beta", np.zeros_like(gamma))
    node.resize_inputs(_INPUTS)
    node.replace_input_with(_INPUTS - 1, beta)
    return beta


def read_norm(value: ir.Value | None) -> Norm | None:
    """The norm whose result a value is, Casts aside; None for anything else."""
    result = behind_casts(value)
    if result is None:
        return None
    return _operator(result) or _rms(result)


def _operator(result: ir.Value) -> Norm | None:
    node = maker(result, "LayerNormalization")
    if node is None or node.outputs[0] is not result:
        return None
    source, gamma = behind_casts(node.inputs[0]), node.inputs[1]
    beta = node.inputs[2] if len(node.inputs) == _INPUTS else None
    if source is None or gamma is None or not vector(gamma) or not (beta is None or vector(beta)):
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    rank = len(source.shape) if source.shape is not None else None
    if axis != -1 and (rank is None or axis != rank - 1):
        return None
    if any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return None
    given = node.attributes.get("epsilon")
    epsilon = given.as_float() if given is not None else _DEFAULT_EPSILON
    return Norm(source, result, gamma, beta, epsilon, _between(source, result))


def _rms(result: ir.Value) -> Norm | None:
    """An RMSNorm in parts: gamma * (x / sqrt(mean(x^2) + epsilon)).

    A LayerNorm in parts is not looked for: its gamma stays float32 in an FP16 twin (`half.py`), and
    the plugin reads float16.
    """
    product = maker(result, "Mul")
    if product is None:
        return None
    gamma = next((value for value in product.inputs if vector(value)), None)
    others = [value for value in product.inputs if value is not gamma]
    if gamma is None or len(others) != 1:
        return None
    found = _over_root(behind_casts(others[0]))
    if found is None:
        return None
    source, epsilon = found
    return Norm(source, result, gamma, None, epsilon, _between(source, result), is_rms=True)


def _over_root(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """What is divided by the root of its mean square, and epsilon."""
    node = maker(value, "Div", "Mul")
    if node is None:
        return None
    for place in (1,) if node.op_type == "Div" else (0, 1):
        root = behind_casts(node.inputs[place])
        if node.op_type == "Mul":
            inverse = maker(root, "Reciprocal", "Div")
            if inverse is None:
                continue
            if inverse.op_type == "Div" and number(inverse.inputs[0]) != 1.0:
                continue
            root = behind_casts(inverse.inputs[-1])
        x, deviation = behind_casts(node.inputs[1 - place]), maker(root, "Sqrt")
        if x is None or deviation is None:
            continue
        epsilon = _epsilon_over(behind_casts(deviation.inputs[0]), x)
        if epsilon is not None and maker(x, "Sub") is None:
            return x, epsilon
    return None


def _epsilon_over(value: ir.Value | None, x: ir.Value) -> float | None:
    """Epsilon of mean(x^2) + epsilon, the mean over the last axis."""
    add = maker(value, "Add")
    for place in (0, 1) if add is not None else ():
        epsilon = number(add.inputs[place]) if add is not None else None
        mean = maker(behind_casts(add.inputs[1 - place]), "ReduceMean") if add is not None else None
        if epsilon is None or mean is None or not _over_last(mean):
            continue
        square = maker(behind_casts(mean.inputs[0]), "Pow", "Mul")
        if square is None or behind_casts(square.inputs[0]) is not x:
            continue
        is_power = square.op_type == "Pow" and number(square.inputs[1]) == 2.0
        if is_power or (square.op_type == "Mul" and behind_casts(square.inputs[1]) is x):
            return epsilon
    return None


def _over_last(node: ir.Node) -> bool:
    """Whether a reduction goes over the last axis alone and keeps it."""
    if "keepdims" in node.attributes and not node.attributes["keepdims"].as_int():
        return False
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints()) == [-1]
    axes = qdq.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and axes.tolist() == [-1]


def _between(source: ir.Value, result: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes from `source` to `result`."""
    found: dict[int, ir.Node] = {}
    queue = [result]
    while queue:
        node = queue.pop().producer()
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        queue += [value for value in node.inputs if value is not None and value is not source]
    return tuple(found.values())
