"""Run the twins on held-out texts with Polygraphy and ONNX Runtime, and measure how they differ."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import GraphError, first_line
from trt_int8.numerics import cosine, sqnr_db
from trt_int8.spec.accuracy import AccuracyReport, OutputError, PairAccuracy
from trt_int8.spec.shapes import canonical_axis

Outputs = list[dict[str, NDArray[np.float32]]]
Masks = list[NDArray[np.int64] | None]
_PAIRS = (("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16"))


@dataclass(frozen=True)
class TwinFiles:
    """The ONNX files to compare; all have the same inputs and outputs."""

    fp32: Path
    fp16: Path
    int8: Path


@dataclass(frozen=True)
class FloatOutput:
    """A float output: its rank, and whether axis 1 is the sequence ([B, S, ...])."""

    rank: int
    per_token: bool


def compare(
    twins: TwinFiles,
    batches: list[TokenArrays],
    outputs: Mapping[str, FloatOutput],
    advance: Callable[[], None],
) -> AccuracyReport:
    """Measure INT8 and FP16 against FP32, and INT8 against FP16.

    Args:
        twins: ONNX files.
        batches: held-out inputs; each row of a batch is one text.
        outputs: float outputs to compare (`float_outputs`).
        advance: called once per batch and file.
    """
    results = {
        name: run(path, batches, advance)
        for name, path in (("fp32", twins.fp32), ("fp16", twins.fp16), ("int8", twins.int8))
    }
    texts = [batch.get("attention_mask") for batch in batches]
    masks: dict[str, Masks] = {
        name: texts if output.per_token else [None] * len(batches)
        for name, output in outputs.items()
    }
    pairs = tuple(
        PairAccuracy(
            reference=reference,
            measured=measured,
            outputs=tuple(
                _errors(name, results[reference], results[measured], masks[name])
                for name in outputs
            ),
        )
        for measured, reference in _PAIRS
    )
    primary_output = primary_of(outputs)
    cosines = _cosines(primary_output, results["fp16"], results["int8"], masks[primary_output])
    return AccuracyReport(
        primary_output=primary_output,
        samples=len(cosines),
        pairs=pairs,
        cosines=tuple(round(c, 6) for c in cosines),
    )


def run(path: Path, batches: list[TokenArrays], advance: Callable[[], None]) -> Outputs:
    """Outputs of one ONNX file for all batches, as float32.

    Raises:
        GraphError: ONNX Runtime cannot load or run it.
    """

    def load() -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        # Run Q/DQ as written: no fusing to integer kernels with other rounding.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def feed() -> object:
        for batch in batches:
            yield dict(batch)
            advance()

    try:
        with contextlib.redirect_stdout(io.StringIO()), G_LOGGER.verbosity(G_LOGGER.ERROR):
            found = Comparator.run([OnnxrtRunner(load, name="run")], data_loader=feed())
    except Exception as error:
        raise GraphError(
            f"ONNX Runtime cannot run {path.name!r} ({first_line(error)})",
            wanted="operators its CPU provider has",
            todo="check the model, or export it again",
        ) from error
    return [
        {name: np.asarray(value, np.float32) for name, value in iteration.items()}
        for iteration in found["run"]
    ]


def _rows(
    name: str, reference: Outputs, measured: Outputs, masks: Masks
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pairs of one text's values, without the padding positions where there is a mask [B, S]."""
    rows = []
    for ref, other, mask in zip(reference, measured, masks, strict=True):
        for row in range(ref[name].shape[0]):
            a, b = ref[name][row], other[name][row]
            if mask is not None:
                keep = mask[row].astype(bool)
                a, b = a[keep], b[keep]
            rows.append((a, b))
    return rows


def _cosines(name: str, reference: Outputs, measured: Outputs, masks: Masks) -> list[float]:
    return [cosine(a, b) for a, b in _rows(name, reference, measured, masks)]


def output_cosines(
    reference: Outputs, measured: Outputs, batches: list[TokenArrays]
) -> list[float]:
    """Cosine of the primary output per text.

    Args:
        reference: float outputs per batch.
        measured: the same outputs of another model.
        batches: the inputs; an output [B, S, ...] is looked at per token, without padding.
    """
    sizes = [next(iter(batch.values())).shape for batch in batches]
    outputs = {
        name: FloatOutput(
            rank=array.ndim,
            per_token=all(
                out[name].shape[:2] == size for out, size in zip(reference, sizes, strict=True)
            ),
        )
        for name, array in reference[0].items()
    }
    name = primary_of(outputs)
    texts = [batch.get("attention_mask") for batch in batches]
    masks: Masks = texts if outputs[name].per_token else [None] * len(batches)
    return _cosines(name, reference, measured, masks)


def _errors(name: str, reference: Outputs, measured: Outputs, masks: Masks) -> OutputError:
    rows = _rows(name, reference, measured, masks)
    ref = np.concatenate([a.reshape(-1) for a, _ in rows])
    other = np.concatenate([b.reshape(-1) for _, b in rows])
    cosines = [cosine(a, b) for a, b in rows]
    difference = np.abs(ref - other)
    return OutputError(
        output=name,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        cosine_mean=float(np.mean(cosines)),
        cosine_min=float(np.min(cosines)),
        sqnr_db=round(sqnr_db(ref, other), 3),
    )


def float_outputs(model: onnx.ModelProto) -> dict[str, FloatOutput]:
    """The float outputs of a graph by name; others (passed-through ids) do not count.

    Raises:
        GraphError: it has none.
    """
    sequence = {_axis_name(value, 1) for value in model.graph.input} - {""}
    found = {
        value.name: FloatOutput(
            rank=len(value.type.tensor_type.shape.dim),
            per_token=_axis_name(value, 1) in sequence
            or canonical_axis(_axis_name(value, 1)) == "seq",
        )
        for value in model.graph.output
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    if not found:
        raise GraphError(
            f"the outputs {[v.name for v in model.graph.output]} are not float32",
            wanted="at least one float32 output to compare",
            todo="export the model in float32",
        )
    return found


def _axis_name(value: onnx.ValueInfoProto, axis: int) -> str:
    """Name of a dynamic axis; empty if it is fixed, unnamed or missing."""
    dims = value.type.tensor_type.shape.dim
    return dims[axis].dim_param if axis < len(dims) else ""


def primary_of(outputs: Mapping[str, FloatOutput]) -> str:
    """The output a policy looks at: `sentence_embedding`, else the first one of lowest rank.

    A pooled output [B, H] or class logits [B, C] say more of an answer than token states.
    """
    if "sentence_embedding" in outputs:
        return "sentence_embedding"
    return min(outputs, key=lambda name: outputs[name].rank)
