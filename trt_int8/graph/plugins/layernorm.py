"""[Add bias] -> [Add residual] -> LayerNorm or RMSNorm -> QuantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trt_int8.graph.plugins.gelu import split_bias
from trt_int8.graph.plugins.norms import Norm, read_norm
from trt_int8.graph.plugins.outline import PluginSite
from trt_int8.graph.plugins.walk import (
    NoPluginError,
    Shapes,
    check_vectors,
    codes_or_value,
    is_used_once,
    maker,
    scale_of,
)
from trt_int8.plugins.layernorm import Kind, LayerNormForm, LayerNormScalars
from trt_int8.plugins.signatures import signature_of


@dataclass(frozen=True)
class _Sum:
    """What a norm reads, taken apart as x + bias + residual; each a tensor of the graph."""

    x: ir.Value
    bias: ir.Value | None = None
    residual: ir.Value | None = None


def find_norms(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every Q that reads a norm, in graph order."""
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and read_norm(node.inputs[0]) is not None:
            yield node


def norm_site(quantize: ir.Node, shapes: Shapes) -> PluginSite:
    """The part that ends in a Q.

    Raises:
        NoPluginError: the plugin has no such form.
        PluginError: its limits.
    """
    norm, scale = read_norm(quantize.inputs[0]), scale_of(quantize)
    if norm is None or scale is None:
        raise NoPluginError("its Q is not symmetric with one scale")
    hidden = shapes.fixed(norm.source, -1)
    if hidden is None or shapes.fixed(norm.result, -1) != hidden:
        raise NoPluginError("the length of its rows is not known")
    parts = _take_apart(norm.source, shapes)
    check_vectors(hidden, parts.bias, norm.gamma, norm.beta)
    x, x_scale = codes_or_value(parts.x)
    residual, residual_scale = parts.residual, 1.0
    if residual is not None:
        residual, residual_scale = codes_or_value(residual)
    has_sum = _is_read_elsewhere(norm.source, norm) and parts.x is not norm.source
    form = LayerNormForm(
        hidden,
        _kind(x),
        None if residual is None else _kind(residual),
        bias=parts.bias is not None,
        rms=norm.beta is None,
        half=_is_float_needed(norm.result, quantize),
        sum=has_sum,
    )
    LayerNormScalars(scale, norm.epsilon, x_scale, residual_scale)
    given = (x, parts.bias, residual, norm.gamma, norm.beta)
    made = (
        quantize.outputs[0],
        norm.result if form.half else None,
        norm.source if has_sum else None,
    )
    _let_shapes_read(x, norm)
    return PluginSite(
        signature_of("layernorm", _features(form)),
        str(quantize.name),
        tuple(value for value in given if value is not None),
        tuple(value for value in made if value is not None),
        {
            "x_scale": x_scale,
            "residual_scale": residual_scale,
            "output_scale": scale,
            "epsilon": norm.epsilon,
        },
    )


def _features(form: LayerNormForm) -> tuple[str, ...]:
    chosen = {
        "bias": form.bias,
        "no_residual": form.residual is None,
        "rms": form.rms,
        "half": form.half,
        "sum": form.sum,
    }
    return tuple(name for name, on in chosen.items() if on)


def _take_apart(source: ir.Value, shapes: Shapes) -> _Sum:
    """x, bias and residual, as far as they have the shape of their sum."""
    add = maker(source, "Add")
    first, bias = split_bias(source)
    if bias is not None and shapes.are_equal(first, source):
        return _Sum(first, bias)
    if add is None or bias is not None or not shapes.are_equal(source, *add.inputs):
        return _Sum(source)
    left, right = add.inputs
    assert left is not None
    assert right is not None
    for branch, residual in ((left, right), (right, left)):
        inner, bias = split_bias(branch)
        # A sum that something else reads too is an input: the plugin has no output for it.
        if bias is not None and is_used_once(branch) and shapes.are_equal(inner, source):
            return _Sum(inner, bias, residual)
    return _Sum(left, None, right)


def _let_shapes_read(x: ir.Value, norm: Norm) -> None:
    """A Shape of the normalised tensor takes that of x, or it would need a second output."""
    for user, place in tuple(norm.result.uses()):
        if user.op_type == "Shape":
            user.replace_input_with(place, x)


def _is_read_elsewhere(value: ir.Value, norm: Norm) -> bool:
    """Tell whether more than the nodes of the norm read a tensor."""
    inside = {id(node) for node in norm.nodes}
    return value.is_graph_output() or any(id(user) not in inside for user, _ in value.uses())


def _is_float_needed(result: ir.Value, quantize: ir.Node) -> bool:
    """Tell whether more than this Q, behind a Cast, reads the numbers of the normalised tensor."""
    if result.is_graph_output():
        return True
    for user, _ in result.uses():
        to_this = (
            user is quantize
            or user.op_type == "Shape"
            or (
                user.op_type == "Cast"
                and all(next_user is quantize for next_user, _ in user.outputs[0].uses())
                and not user.outputs[0].is_graph_output()
            )
        )
        if not to_this:
            return True
    return False


def _kind(value: ir.Value) -> Kind:
    return "int8" if value.dtype == ir.DataType.INT8 else "float16"
