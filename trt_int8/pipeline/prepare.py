"""From a model to its float32 and INT8 graphs, by the entrance that fits it."""

from __future__ import annotations

from trt_int8.calibrate.texts import builtin_texts, read_texts
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.onnx_entrance import prepare_onnx
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.torch_entrance import prepare_torch

# Below this a single text moves the ranges, and the mean cosine of a quarter of them is coarse.
FEW_TEXTS = 100


def prepare(source: ModelSource, options: BuildOptions, reporter: Reporter) -> PreparedModel:
    """Load, annotate, calibrate and export a model.

    Raises:
        TrtInt8Error: of the stage that failed.
    """
    texts = read_texts(options.calib or builtin_texts())
    if options.calib is None:
        reporter.note(
            "calibrating on the built-in English sentences; pass --calib with texts of your own"
        )
    if len(texts.items) < FEW_TEXTS:
        reporter.note(
            f"{texts.origin} has only {len(texts.items)} texts: a few hundred give steadier ranges"
        )
    entrance = prepare_onnx if source.kind == "onnx" else prepare_torch
    return entrance(source, options, reporter, texts)
