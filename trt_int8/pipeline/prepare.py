"""From a model to its float32 and INT8 graphs, by the entrance that fits it."""

from __future__ import annotations

from trt_int8.calibrate.texts import builtin_texts, read_texts
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.onnx_entrance import prepare_onnx
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.torch_entrance import prepare_torch


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
    entrance = prepare_onnx if source.kind == "onnx" else prepare_torch
    return entrance(source, options, reporter, texts)
