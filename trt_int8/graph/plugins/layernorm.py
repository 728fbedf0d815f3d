"""[Add bias] -> [Add residual] -> LayerNorm or RMSNorm -> QuantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trt_int8.graph.plugins.flat import behind_flat, check_flat, let_shapes_read, unflat_codes
from trt_int8.graph.plugins.gelu import split_bias
from trt_int8.graph.plugins.norms import Norm, beta_of, read_norm
from trt_int8.graph.plugins.operands import LayoutWriter
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
        if node.op_type == "QuantizeLinear" and _norm_before(node)[0] is not None:
            yield node


def _norm_before(quantize: ir.Node) -> tuple[Norm | None, ir.Node | None]:
    """The norm that a Q reads, and the Reshape between the two."""
    value, flat = behind_flat(quantize.inputs[0])
    return read_norm(value), flat


def norm_site(quantize: ir.Node, shapes: Shapes, layouts: LayoutWriter) -> PluginSite:
    """The part that ends in a Q.

    Raises:
        NoPluginError: the plugin has no such form.
        PluginError: its limits.
    """
    (norm, flat), scale = _norm_before(quantize), scale_of(quantize)
    if norm is None or scale is None:
        raise NoPluginError("its Q is not symmetric with one scale")
    hidden = shapes.fixed(norm.source, -1)
    if hidden is None or shapes.fixed(norm.result, -1) != hidden:
        raise NoPluginError("the length of its rows is not known")
    check_flat(flat, hidden, shapes)
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
        rms=norm.is_rms,
        half=_is_float_needed(norm.result, quantize),
        sum=has_sum,
    )
    LayerNormScalars(scale, norm.epsilon, x_scale, residual_scale)
    beta = None if norm.is_rms else beta_of(norm, layouts)
    given = (x, parts.bias, residual, norm.gamma, beta)
    codes = unflat_codes(quantize, flat, hidden, layouts)
    let_shapes_read(norm.result, codes)
    made = (
        codes,
        norm.result if form.half else None,
        norm.source if has_sum else None,
    )
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


def _is_read_elsewhere(value: ir.Value, norm: Norm) -> bool:
    """Tell whether more than the nodes of the norm read a tensor."""
    inside = {id(node) for node in norm.nodes}
    return value.is_graph_output() or any(id(user) not in inside for user, _ in value.uses())


def _is_float_needed(result: ir.Value, quantize: ir.Node) -> bool:
    """Tell whether more than this Q reads the numbers of the normalised tensor."""
    return result.is_graph_output() or not all(_leads_to(u, quantize) for u, _ in result.uses())


def _leads_to(node: ir.Node, quantize: ir.Node) -> bool:
    """Tell whether a node is a Q or a Shape, or a Cast or Reshape that only these read."""
    if node is quantize or node.op_type == "Shape":
        return True
    if node.domain or node.op_type not in ("Cast", "Reshape"):
        return False
    made = node.outputs[0]
    return not made.is_graph_output() and all(_leads_to(u, quantize) for u, _ in made.uses())


def _kind(value: ir.Value) -> Kind:
    return "int8" if value.dtype == ir.DataType.INT8 else "float16"
