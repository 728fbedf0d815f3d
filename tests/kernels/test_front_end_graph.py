"""Plugin nodes of fused graphs, from the ONNX file to the PTX that an engine would hold.

What TensorRT would make of each node, run in the PTX interpreter on the node's real inputs, beside
what ONNX Runtime makes of its reference body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.kernels.front_end.cases import Case, build
from tests.kernels.front_end.runs import EngineKernel, run
from tests.kernels.tools import needs_nvrtc
from tests.support.install_bindings import PLUGIN_VERSIONS
from tests.support.onnx_tiny import run_ort
from tests.support.plugin_graphs import Block
from tests.support.plugin_rows import gelu_twin, norm_twin, rows
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.graph.plugin_variants import strip_bodies
from trt_int8.model.onnx_shapes import infer_fixed_dims, infer_types
from trt_int8.plugins.signatures import NAMESPACE
from trt_int8.spec.plugins import PLUGIN_FAMILIES

pytestmark = needs_nvrtc

Arrays = dict[str, NDArray[Any]]
_KIND_OF = {"int8": "INT8", "float16": "HALF", "float32": "FLOAT", "int32": "INT32"}
# In INT8 steps: bodies round to float16 between their operators, and their softmax to 7 bits.
TOLERANCE: dict[str, Any] = {
    "int8": {"rtol": 0, "atol": 2},
    "float16": {"rtol": 4e-3, "atol": 4e-3},
}


def values_of(model: onnx.ModelProto, names: list[str], feeds: Arrays) -> Arrays:
    """Tensors of a graph, as ONNX Runtime computes them."""
    opened, types = onnx.ModelProto(), infer_types(model)
    opened.CopyFrom(model)
    wanted = [name for name in names if name in types]
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_tensor_value_info(n, types[n], None) for n in wanted)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {**stored, **dict(zip(wanted, run_ort(opened, feeds), strict=True))}


def case_of(fused: onnx.ModelProto, call: onnx.NodeProto, values: Arrays) -> Case:
    """The layer that TensorRT's parser makes of a call, in the file that it reads."""
    (node,) = (n for n in strip_bodies(fused).graph.node if n.name == call.name)
    dims = infer_fixed_dims(fused)
    shapes = []
    for name in call.input:
        sizes = values[name].shape
        known = zip(dims.get(name, sizes), sizes, strict=True)
        shapes.append(tuple(fixed or f"n{size}" for fixed, size in known))
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes.pop("plugin_namespace") == NAMESPACE.encode()
    assert attributes.pop("plugin_version") == b"1"
    varying = {d: int(d[1:]) for shape in shapes for d in shape if isinstance(d, str)}
    kinds = tuple(_KIND_OF[str(values[name].dtype)] for name in call.input)
    return Case(f"{NAMESPACE}::{node.op_type}", kinds, tuple(shapes), attributes, (varying,))


TWINS = {
    "attention": (Block(scale="scores").twin(), Block().feeds()),
    "attention with a mask": (Block(mask="add").twin(), Block(mask="add").feeds()),
    "layernorm": (norm_twin(half=True, total=True), rows(norm_twin())),
    "gelu": (gelu_twin(), rows(gelu_twin())),
}


@pytest.mark.parametrize("version", [PLUGIN_VERSIONS[0], PLUGIN_VERSIONS[-1]])
@pytest.mark.parametrize("name", TWINS)
def test_an_engine_answers_a_plugin_node_as_its_body_does(
    version: str, name: str, stubs: Path
) -> None:
    twin, feeds = TWINS[name]
    fused = fuse_plugins(twin, PLUGIN_FAMILIES).model
    (call,) = (n for n in fused.graph.node if n.domain == NAMESPACE)
    values = values_of(fused, [*call.input, *call.output], feeds)
    (layer,) = build(version, [case_of(fused, call, values)], stubs)
    assert "error" not in layer, layer["error"]
    inputs = tuple(np.ascontiguousarray(values[name]) for name in call.input)
    outputs = list(zip(layer["output_kinds"], layer["output_shapes"][0], strict=True))
    for kernel in layer["kernels"].values():
        held = EngineKernel(kernel["name"], kernel["ptx"], kernel["launches"][0])
        for output, got in zip(call.output, run(held, inputs, outputs), strict=True):
            body = values[output]
            assert (got.dtype, got.shape) == (body.dtype, body.shape)
            np.testing.assert_allclose(
                got.astype(np.float64), body.astype(np.float64), **TOLERANCE[str(body.dtype)]
            )
            assert len(np.unique(body)) > 50
