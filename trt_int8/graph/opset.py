"""The opset of a graph: where Q/DQ have an axis, shapes are known, and ONNX Runtime runs both."""

from __future__ import annotations

import onnx
import onnx.version_converter

from trt_int8.errors import GraphError, first_line

# DequantizeLinear has an axis (one scale per output channel) from 13 on.
MIN_OPSET = 13
# Before 14 ONNX infers no shape behind a computed Reshape, and so no head size; 17 is the opset
# that PyTorch models are exported in here.
OLDEST = 17
# From 21 on ONNX Runtime (1.31) takes an int8 Q in front of a Transpose for uint8 and refuses the
# graph, unless its rewriting of Q/DQ is switched off.
NEWEST = 20


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 if the graph names none."""
    found = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return max(found, default=0)


def raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a graph of opset 12 or older to opset 13; a newer one is given back as it is.

    Raises:
        GraphError: ONNX's version converter cannot do it.
    """
    opset = opset_of(model)
    if opset >= MIN_OPSET:
        return model
    try:
        if opset == 0:
            raise ValueError("the file names no opset")
        raised = onnx.version_converter.convert_version(model, MIN_OPSET)
        onnx.checker.check_model(raised)
    # The converter is C++ code that raises RuntimeError and bare C++ errors alike.
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        raise GraphError(
            f"the graph uses opset {opset}, and ONNX cannot convert it ({first_line(error)})",
            wanted=f"opset {MIN_OPSET} or newer",
            todo="export it with opset_version=17",
        ) from error
    return raised


def fit_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in an opset from 17 to 20, the nearest one; as it is if ONNX cannot convert it.

    Names of nodes and tensors stay.
    """
    wanted = min(max(opset_of(model), OLDEST), NEWEST)
    if wanted == opset_of(model):
        return model
    try:
        fitting = onnx.version_converter.convert_version(model, wanted)
        onnx.checker.check_model(fitting)
    # The converter is C++ code that raises RuntimeError for an operator that has no older version,
    # and others for what it cannot read.
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError):
        return model
    return fitting
