"""The opset of a graph: one that ONNX can infer shapes in, and ONNX Runtime runs Q/DQ in."""

from __future__ import annotations

import onnx
import onnx.version_converter

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
