"""From a model to its float32 and INT8 graphs, by the entrance that fits it."""

from __future__ import annotations

from trt_int8.errors import ModelError
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.calibration_data import read_data
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.onnx_entrance import enter_onnx
from trt_int8.pipeline.options import BuildOptions, InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.ranges import choose_ranges
from trt_int8.pipeline.torch_entrance import enter_torch
from trt_int8.pipeline.trained_entrance import enter_trained


def prepare(source: ModelSource, options: BuildOptions, reporter: Reporter) -> PreparedModel:
    """Load, annotate, calibrate and export a model.

    Raises:
        TrtInt8Error: of the stage that failed.
    """
    # Implicit INT8 needs ranges by tensor name of the graph.
    implicit = options.implicit_int8 is not None
    if implicit:
        if "smooth" in options.recipe.model_fields_set and options.recipe.alpha:
            reporter.note("nothing is smoothed: implicit INT8 has no place for the factors")
        # TensorRT then reads the float graph and a cache, which has no factors.
        recipe = options.recipe.model_copy(update={"smooth": 0})
        options = options.model_copy(update={"recipe": recipe})
    entrance = enter(source, options, reporter, as_graph=implicit)
    if isinstance(entrance, PreparedModel):
        option = "--implicit-int8" if implicit else "--ranges" if options.ranges else ""
        if option:
            raise ModelError(
                f"{source.name!r} has Q/DQ nodes with ranges of their own",
                wanted=f"a float model for {option}",
                todo=f"leave {option} out, pass --requantize, or pass the float ONNX",
            )
        return entrance
    return entrance.finish(choose_ranges(entrance, options, reporter), reporter)


def enter(
    source: ModelSource, options: InputOptions, reporter: Reporter, *, as_graph: bool = False
) -> Entrance | PreparedModel:
    """Load and annotate a model by the entrance that fits it.

    Args:
        source: the model.
        options: recipe and data.
        reporter: told of progress.
        as_graph: export a Hugging Face model first, and quantize its graph; so is one whose recipe
            only a graph can follow.

    Returns:
        A float model ready to calibrate; an ONNX file with Q/DQ, or a checkpoint with ranges,
        is prepared already.

    Raises:
        TrtInt8Error: of the stage that failed.
    """
    for warning in options.recipe.warnings:
        reporter.note(f"recipe {options.recipe.name!r}: {warning}")
    data = read_data(options.calib)
    if source.kind == "onnx":
        return enter_onnx(source, options, reporter, data)
    trained = None if options.requantize else enter_trained(source, options, reporter, data)
    if trained is not None:
        return trained
    as_graph = as_graph or options.recipe.needs_graph
    return enter_torch(source, options, reporter, data, as_graph=as_graph)
