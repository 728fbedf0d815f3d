"""The entrance of a Hugging Face folder that came out of quantization-aware training."""

from __future__ import annotations

from trt_int8 import __version__
from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.trained import restore_quantizers
from trt_int8.calibrate.arrays import ArrayData
from trt_int8.calibrate.texts import Texts
from trt_int8.errors import ModelError
from trt_int8.graph.export import export_onnx
from trt_int8.model.huggingface import MediaModel, load_model
from trt_int8.model.quantizers import quantizer_ranges
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import PreparedModel, shapes_of
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.torch_entrance import data_of, probe_of
from trt_int8.spec.ranges import RangeTable

METHOD = "checkpoint"
_SHOWN = 3


def enter_trained(
    source: ModelSource, options: InputOptions, reporter: Reporter, given: Texts | ArrayData
) -> PreparedModel | None:
    """Load a folder whose weights carry quantizer ranges, and quantize it by these.

    Args:
        source: the model.
        options: recipe (for the number of texts alone), profile, tokenizer.
        reporter: told which ranges are used.
        given: what accuracy is measured on.

    Returns:
        Both twins; None if the checkpoint has no such ranges.

    Raises:
        TrtInt8Error: of the step that failed.
    """
    ranges = quantizer_ranges(source)
    if not ranges:
        return None
    with reporter.task("Loading the model"):
        model = load_model(source, given.names if isinstance(given, ArrayData) else ())
    if isinstance(model, MediaModel):
        raise ModelError(
            f"{source.name!r} has quantizer ranges and reads {model.inputs[0].name}",
            wanted="a text model",
            todo="export it with trt_int8.pipeline.user_entrance.export_annotated",
        )
    data, shapes = data_of(source, model, options, reporter, given)
    use_primitive_attention(model.backbone, probe_of(model), model.wrapper)
    trained = restore_quantizers(model.wrapper, model.backbone, ranges)
    reporter.note(
        f"the checkpoint has quantizer ranges: those of {len(trained.ranges)} Linear layers are"
        " kept, nothing is calibrated, the recipe is not used"
    )
    if trained.left_out:
        shown = ", ".join(trained.left_out[:_SHOWN])
        more = len(trained.left_out) - _SHOWN
        reporter.note(
            f"ranges of the checkpoint that are of no Linear with an input range here: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
    with reporter.task("Exporting to ONNX", 2) as advance:
        fp32 = export_onnx(model, trained.annotated, quantized=False)
        advance(1)
        int8 = export_onnx(model, trained.annotated, quantized=True)
    table = RangeTable(
        method=METHOD,
        samples=0,
        model_sha256=source.sha256(),
        data_sha256="",
        versions={"trt_int8": __version__},
        ranges=trained.ranges,
    )
    held_out = data.only(fp32).held_out
    return PreparedModel(
        fp32, int8, table, held_out, data.sha256(), shapes_of(fp32, shapes), by_recipe=False
    )
