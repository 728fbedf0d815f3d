"""The bundle's graph as runtimes on the CPU take it best."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from trt_int8.errors import GraphError, UnsafePathError, first_line
from trt_int8.graph.plugin_variants import inline_plugins
from trt_int8.graph.widen import drop_idle_casts, widen


def cpu_graph(data: bytes) -> bytes:
    """Plugins replaced by their bodies, and half precision by float32, in which CPUs compute.

    Q/DQ stay as they are. Weights that are float32 in the file are shared by every shape that is
    compiled; half ones would be converted for each.

    Args:
        data: an ONNX file.

    Returns:
        An ONNX file without functions of the plugins.

    Raises:
        GraphError: it is no ONNX file.
        UnsafePathError: some weights are in another file.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise GraphError(
            f"the bundle's graph cannot be read ({first_line(error)})",
            wanted="an ONNX file",
            todo="build the bundle again",
        ) from error
    outside = next(
        (each.name for each in _get_all_tensors(model) if uses_external_data(each)), None
    )
    if outside is not None:
        # Runtimes would look for that file in the current folder, and nothing checks it.
        raise UnsafePathError(
            f"the weights {outside!r} of the bundle's graph are in a file of their own",
            wanted="one file with all weights, as builds write it",
            todo="do not use this bundle unless you know who changed it; build it again",
        )
    opened = ir.from_proto(inline_plugins(model))
    widen(opened)
    drop_idle_casts(opened.graph)
    return bytes(ir.to_proto(opened).SerializeToString())
