"""[Add bias] -> GELU -> QuantizeLinear, in the forms that exporters write."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.plugins.flat import behind_flat, check_flat, let_shapes_read, unflat_codes
from trt_int8.graph.plugins.operands import LayoutWriter
from trt_int8.graph.plugins.outline import PluginSite
from trt_int8.graph.plugins.walk import (
    NoPluginError,
    Shapes,
    behind_casts,
    check_vectors,
    codes_or_value,
    factors,
    is_near,
    maker,
    number,
    scale_of,
    vector,
)
from trt_int8.plugins.gelu import GeluForm, GeluScalars
from trt_int8.plugins.signatures import signature_of

# Hendrycks and Gimpel 2016, "Gaussian Error Linear Units": x / 2 * (1 + erf(x / sqrt(2))), and its
# approximation x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).
_TANH_FACTOR = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def find_gelus(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every Q that reads a GELU, in graph order."""
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and _read_gelu(behind_flat(node.inputs[0])[0]):
            yield node


def gelu_site(quantize: ir.Node, shapes: Shapes, layouts: LayoutWriter) -> PluginSite:
    """The part that ends in a Q.

    Raises:
        NoPluginError: the plugin has no such form.
        PluginError: its limits.
    """
    result, flat = behind_flat(quantize.inputs[0])
    read, scale = _read_gelu(result), scale_of(quantize)
    if result is None or read is None or scale is None:
        raise NoPluginError("its Q is not symmetric with one scale")
    argument, is_tanh = read
    source, bias = split_bias(argument)
    codes, x_scale = codes_or_value(source)
    hidden = shapes.fixed(argument, -1)
    if hidden is None:
        raise NoPluginError("the length of its rows is not known")
    if bias is not None and not shapes.are_equal(source, argument):
        raise NoPluginError("its bias broadcasts the rows")
    check_vectors(hidden, bias)
    check_flat(flat, hidden, shapes)
    inputs = (codes,) if bias is None else (codes, bias)
    GeluForm(hidden, "int8" if codes is not source else "float16", bias is not None, is_tanh)
    GeluScalars(scale, x_scale)
    made = unflat_codes(quantize, flat, hidden, layouts)
    let_shapes_read(result, made)
    return PluginSite(
        signature_of("gelu", () if bias is not None else ("no_bias",)),
        str(quantize.name),
        inputs,
        (made,),
        {"x_scale": x_scale, "output_scale": scale, "tanh": int(is_tanh)},
    )


def split_bias(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """What a constant vector is added to, and the vector."""
    add = maker(value, "Add")
    if add is not None:
        for place in (0, 1):
            bias, other = add.inputs[place], add.inputs[1 - place]
            if vector(bias) and bias is not None and other is not None and not vector(other):
                return other, bias
    return value, None


def _read_gelu(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """The argument of a GELU, and whether it is the tanh form; None for anything else."""
    whole = behind_casts(value)
    node = maker(whole, "Gelu")
    argument = behind_casts(node.inputs[0]) if node is not None else None
    if node is not None and argument is not None:
        form = node.attributes.get("approximate")
        return argument, form is not None and form.as_string() == "tanh"
    constant, others = factors(whole)
    if not is_near(constant, 0.5) or len(others) != 2:
        return None
    for gate, argument in (others, others[::-1]):
        plain = behind_casts(argument)
        inner = _without_one(gate)
        if plain is None or inner is None:
            continue
        if _is_erf(inner, plain):
            return plain, False
        if _is_tanh(inner, plain):
            return plain, True
    return None


def _without_one(value: ir.Value) -> ir.Value | None:
    """What 1 is added to."""
    add = maker(behind_casts(value), "Add")
    for place in (0, 1) if add is not None else ():
        if add is not None and is_near(number(add.inputs[place]), 1.0):
            return behind_casts(add.inputs[1 - place])
    return None


def _is_erf(value: ir.Value, argument: ir.Value) -> bool:
    node = maker(value, "Erf")
    if node is None:
        return False
    constant, others = factors(node.inputs[0])
    return is_near(constant, math.sqrt(0.5)) and _are(others, argument)


def _is_tanh(value: ir.Value, argument: ir.Value) -> bool:
    node = maker(value, "Tanh")
    if node is None:
        return False
    constant, others = factors(node.inputs[0])
    if not is_near(constant, _TANH_FACTOR):
        return False
    if len(others) == 2:  # x * (1 + 0.044715 * x^2)
        for rest, plain in (others, others[::-1]):
            square = _without_one(rest)
            if square is not None and _are([plain], argument):
                return _is_power(square, argument, 2)
        return False
    add = maker(behind_casts(others[0]), "Add") if len(others) == 1 else None
    for place in (0, 1) if add is not None else ():
        if add is not None and behind_casts(add.inputs[place]) is argument:
            return _is_power(add.inputs[1 - place], argument, 3)
    return False


def _is_power(value: ir.Value | None, argument: ir.Value, exponent: int) -> bool:
    """0.044715 * argument^exponent, by Pow or by products."""
    constant, others = factors(value)
    if not is_near(constant, _CUBIC):
        return False
    power = maker(behind_casts(others[0]), "Pow") if len(others) == 1 else None
    if power is not None:
        plain = behind_casts(power.inputs[0])
        return plain is argument and number(power.inputs[1]) == exponent
    return len(others) == exponent and _are(others, argument)


def _are(values: list[ir.Value], argument: ir.Value) -> bool:
    return bool(values) and all(behind_casts(value) is argument for value in values)
