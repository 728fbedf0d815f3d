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
from trt_int8.errors import GraphError
from trt_int8.numerics import cosine, sqnr_db
from trt_int8.spec.accuracy import AccuracyReport, OutputError, PairAccuracy

Outputs = list[dict[str, NDArray[np.float32]]]
_PAIRS = (("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16"))


@dataclass(frozen=True)
class TwinFiles:
    """The ONNX files to compare; all have the same inputs and outputs."""

    fp32: Path
    fp16: Path
    int8: Path


def compare(
    twins: TwinFiles,
    batches: list[TokenArrays],
    outputs: Mapping[str, int],
    advance: Callable[[], None],
) -> AccuracyReport:
    """Measure INT8 and FP16 against FP32, and INT8 against FP16.

    Args:
        twins: ONNX files.
        batches: held-out inputs; each row of a batch is one text.
        outputs: float outputs to compare, with their ranks (`float_outputs`).
        advance: called once per batch and file.
    """
    results = {
        name: run(path, batches, advance)
        for name, path in (("fp32", twins.fp32), ("fp16", twins.fp16), ("int8", twins.int8))
    }
    masks = [batch.get("attention_mask") for batch in batches]
    pairs = tuple(
        PairAccuracy(
            reference=reference,
            measured=measured,
            outputs=tuple(
                _errors(name, results[reference], results[measured], masks) for name in outputs
            ),
        )
        for measured, reference in _PAIRS
    )
    primary_output = primary_of(outputs)
    cosines = _cosines(primary_output, results["fp16"], results["int8"], masks)
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
            f"ONNX Runtime cannot run {path.name!r} ({str(error).splitlines()[0]})",
            wanted="operators its CPU provider has",
            todo="check the model, or export it again",
        ) from error
    return [
        {name: np.asarray(value, np.float32) for name, value in iteration.items()}
        for iteration in found["run"]
    ]


def _rows(
    name: str, reference: Outputs, measured: Outputs, masks: list[NDArray[np.int64] | None]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pairs of one text's values; padding positions of token outputs [B, S, ...] are left out."""
    rows = []
    for ref, other, mask in zip(reference, measured, masks, strict=True):
        for row in range(ref[name].shape[0]):
            a, b = ref[name][row], other[name][row]
            if mask is not None and a.ndim >= 2 and a.shape[0] == mask.shape[1]:
                keep = mask[row].astype(bool)
                a, b = a[keep], b[keep]
            rows.append((a, b))
    return rows


def _cosines(
    name: str, reference: Outputs, measured: Outputs, masks: list[NDArray[np.int64] | None]
) -> list[float]:
    return [cosine(a, b) for a, b in _rows(name, reference, measured, masks)]


def _errors(
    name: str, reference: Outputs, measured: Outputs, masks: list[NDArray[np.int64] | None]
) -> OutputError:
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


def float_outputs(model: onnx.ModelProto) -> dict[str, int]:
    """Names and ranks of the float outputs of a graph; others (passed-through ids) do not count.

    Raises:
        GraphError: it has none.
    """
    found = {
        value.name: len(value.type.tensor_type.shape.dim)
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


def primary_of(outputs: Mapping[str, int]) -> str:
    """The output a policy looks at: `sentence_embedding`, else the first one of lowest rank.

    A pooled output [B, H] or class logits [B, C] say more of an answer than token states.
    """
    if "sentence_embedding" in outputs:
        return "sentence_embedding"
    return min(outputs, key=lambda name: outputs[name])
