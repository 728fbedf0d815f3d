"""How large every float tensor of a graph gets on calibration data: does float16 hold it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common as passes

from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.study import FP16_MARGIN_PEAK
from trt_int8.errors import GraphError, first_line

# Samples looked at. One is enough to see the outlier channels of a model, which are there in
# every text (Dettmers et al. 2022, "LLM.int8()", section 4: from one layer on in all sequences).
SCANNED_SAMPLES = 64
_GEMMS = ("MatMul", "Gemm", "Einsum", "Conv")
_SOFTMAX = ("Softmax", "LogSoftmax")
_LAYOUT = frozenset({"Cast", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand"})
_SAME_SIGN = _LAYOUT | {"Mul", "Div", "QuantizeLinear", "DequantizeLinear", "Slice"}
_SCORE_OPS = _SAME_SIGN | {"Add", "Sub", "Where", "Max", "Min", "Clip", "Gather", "Concat", "Trilu"}
_PROBE = "/trt_int8_peak"


def peaks_of(model: onnx.ModelProto, batches: Sequence[Batch]) -> dict[str, float]:
    """The largest |x| of every float32 input, and tensor that is computed from the inputs.

    The graph runs in ONNX Runtime with one number per tensor as its output, so memory does not
    grow with the data. Masked scores, and the masks, count by their largest positive value: what
    is far below zero there means "not this token", and -infinity says so as well.

    Args:
        model: float32 graph in normal form, with or without Q/DQ.
        batches: arrays by input name; those of `some_batches` are looked at.

    Returns:
        By tensor name; empty without batches.

    Raises:
        GraphError: ONNX Runtime cannot run the graph on these inputs.
    """
    if not batches:
        return {}
    probed = ir.from_proto(model)
    passes.ShapeInferencePass()(probed)
    names = _add_probes(probed.graph)
    wanted = {str(value.name) for value in probed.graph.inputs}
    peaks = dict.fromkeys(names.values(), 0.0)
    try:
        session = _session(ir.to_proto(probed))
        for batch in some_batches(batches):
            feeds = {name: array for name, array in batch.items() if name in wanted}
            for output, value in zip(names, session.run(list(names), feeds), strict=True):
                tensor = names[output]
                peaks[tensor] = float(np.fmax(peaks[tensor], value))
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        raise GraphError(
            f"ONNX Runtime cannot look at the tensors of the model ({first_line(error)})",
            wanted="a model that runs on these calibration inputs",
            todo="check the ONNX file and the calibration data",
        ) from error
    return peaks


def near_overflow(peaks: Mapping[str, float]) -> dict[str, float]:
    """Those beyond `FP16_MARGIN_PEAK`, an eighth of the largest float16 number."""
    return {name: peak for name, peak in peaks.items() if not peak <= FP16_MARGIN_PEAK}


def some_batches(batches: Sequence[Batch]) -> list[Batch]:
    """Evenly spread batches with `SCANNED_SAMPLES` samples or a little more, the last among them.

    Texts come sorted by length, so short and long ones are among them.
    """
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    usual = max(1.0, float(np.mean(sizes)))
    count = min(len(batches), max(1, round(SCANNED_SAMPLES / usual)))
    chosen = np.linspace(len(batches) - 1, 0, count).round().astype(int)
    return [batches[index] for index in sorted(set(chosen.tolist()))]


def _add_probes(graph: ir.Graph) -> dict[str, str]:
    """Add max(|x|) of each tensor as an output; the tensor's name by output name."""
    moving = _depend_on_inputs(graph)
    masked = _masked_scores(graph)
    names = {}
    for value in [*graph.inputs, *(v for node in graph for v in node.outputs)]:
        if value.dtype != ir.DataType.FLOAT or id(value) not in moving:
            continue
        tensor, source = str(value.name), value
        if id(value) not in masked:
            source = _append(graph, "Abs", source, f"{tensor}{_PROBE}_abs")
        peak = _append(graph, "ReduceMax", source, f"{tensor}{_PROBE}", keepdims=0)
        graph.outputs.append(peak)
        names[str(peak.name)] = tensor
    return names


def _append(graph: ir.Graph, op: str, source: ir.Value, name: str, **attributes: int) -> ir.Value:
    attrs = [ir.AttrInt64(key, value) for key, value in attributes.items()]
    node = ir.Node("", op, [source], attrs, name=name)
    node.outputs[0].name = name
    node.outputs[0].dtype = ir.DataType.FLOAT
    graph.append(node)
    return node.outputs[0]


def _depend_on_inputs(graph: ir.Graph) -> set[int]:
    """Values (by id) that the numbers in the inputs, not only their shapes, flow into."""
    found = {id(value) for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(id(v) in found for v in node.inputs):
            found |= {id(value) for value in node.outputs}
    return found


def _masked_scores(graph: ir.Graph) -> set[int]:
    """Values (by id) that only softmaxes read, but for bare products that no mask was added to."""
    bare: set[int] = set()
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _GEMMS or (node.op_type in _SAME_SIGN and id(first) in bare):
            bare.add(id(node.outputs[0]))
    masked: set[int] = set()
    for node in reversed(list(graph)):
        for value in node.outputs:
            if not value.is_graph_output() and _only_softmax_reads(value, masked):
                masked.add(id(value))
    return masked - bare


def _only_softmax_reads(value: ir.Value, masked: set[int]) -> bool:
    users = [user for user, _ in value.uses()]
    return bool(users) and all(
        user.op_type in _SOFTMAX or (user.op_type in _SCORE_OPS and id(user.outputs[0]) in masked)
        for user in users
    )


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Q/DQ are to round as they say, and nothing is to be fused that a probe looks into.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
