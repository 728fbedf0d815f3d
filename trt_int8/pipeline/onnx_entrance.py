"""The ONNX entrance: a float graph is quantized by rule, a Q/DQ graph is normalized."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.annotate.onnx_model import plan_onnx, weights_of
from trt_int8.calibrate.arrays import ArrayData, Batch
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.texts import Texts
from trt_int8.errors import GraphError, ModelError, first_line
from trt_int8.evaluate.compare import Outputs, float_outputs, run
from trt_int8.graph.attention_form import attention_form
from trt_int8.graph.insert import has_qdq, insert_qdq, strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.graph.opset import NEWEST, fit_opset, opset_of, raise_opset
from trt_int8.graph.packed import split_packed
from trt_int8.graph.smooth import smooth_graph, smoothing_groups
from trt_int8.model.inputs import ModelInput, check_inputs, graph_inputs
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.calibration_data import batch_arrays, note_texts, wanted_arrays
from trt_int8.pipeline.data import (
    CalibrationData,
    PreparedModel,
    choose_profile,
    shapes_of,
    tokenize_texts,
)
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.profiles import guard_of
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import InputShape, bind_shapes


class OnnxEntrance:
    """A float graph in normal form that is quantized by rule."""

    def __init__(
        self,
        source: ModelSource,
        data: CalibrationData,
        shapes: tuple[InputShape, ...],
        graph: onnx.ModelProto,
        recipe: Recipe,
        guard: AttentionGuard | None = None,
    ) -> None:
        """Plan where Q/DQ go.

        Raises:
            RecipeError: nothing in the graph matches the recipe.
        """
        graph = split_packed(graph)
        self._float = self._graph = graph
        self._plan = plan_onnx(graph, recipe, guard)
        self.residual_sites = self._plan.residual
        self._shapes = shapes_of(graph, shapes)
        self.source, self.data, self.sites = source, data.only(graph), self._plan.tensors

    @property
    def tensors(self) -> OnnxTensors:
        """Gives the statistics of the sites."""
        return OnnxTensors(self._graph, self.sites)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Per input of a Linear the weights [K, N] of all Linears that read this tensor."""
        return weights_of(self._graph, self._plan)

    def smoothing_groups(self) -> tuple[tuple[str, ...], ...]:
        """Inputs of Linears; those whose Linears share a weight are a group."""
        return smoothing_groups(self._float, self._plan)

    def smooth(self, factors: Mapping[str, NDArray[np.float32]]) -> None:
        """See `Entrance.smooth`."""
        quantized = {name: given for name, given in factors.items() if name in self.sites}
        self._graph = smooth_graph(self._float, self._plan, quantized)

    def answers(self, ranges: dict[str, TensorRange] | None, batches: list[Batch]) -> Outputs:
        """Float outputs per batch, with Q/DQ by `ranges`."""
        quantized = ranges is not None
        graph = insert_qdq(self._graph, self._plan, ranges) if ranges is not None else self._float
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("model.int8.onnx" if quantized else "model.fp32.onnx")
            onnx.save(graph, str(path))
            outputs = run(path, batches, lambda: None)
        names = float_outputs(self._float)
        return [{name: output[name] for name in names} for output in outputs]

    def finish(self, ranges: RangeTable, reporter: Reporter) -> PreparedModel:
        """Insert Q/DQ with these ranges."""
        with reporter.task("Inserting Q/DQ"):
            int8 = insert_qdq(self._graph, self._plan, ranges.ranges)
        data = self.data
        return PreparedModel(
            fp32=self._float,
            int8=int8,
            ranges=ranges,
            held_out=data.held_out,
            calibration_sha256=data.sha256(),
            shapes=self._shapes,
            calibration=tuple(data.calibration),
            placement=self._plan.notes,
        )


def enter_onnx(
    source: ModelSource, options: InputOptions, reporter: Reporter, given: Texts | ArrayData
) -> Entrance | PreparedModel:
    """Load an ONNX file.

    Args:
        source: the file.
        options: recipe, profile, tokenizer.
        reporter: told of progress.
        given: texts, if its inputs are what a tokenizer makes; else one array per input.

    Returns:
        A float graph ready to calibrate; a file that came with Q/DQ is prepared already.

    Raises:
        TrtInt8Error: of the step that failed.
    """
    with reporter.task("Loading the model"):
        loaded = fit_opset(attention_form(load_onnx(source.path)))
        had_qdq = has_qdq(loaded)
        if options.requantize and had_qdq:
            loaded = strip_qdq(loaded)
        graph = normalize(loaded)
        inputs = graph_inputs(graph)
        check_inputs(inputs, source.path)
        if isinstance(given, Texts):
            check_text_inputs(inputs, source.path)
            tokenizer = find_tokenizer(source.path, options.tokenizer, inputs)
    if options.requantize and had_qdq:
        reporter.note(
            "the Q/DQ of the ONNX file are taken out; a weight stored as INT8 keeps its rounding"
        )
    if opset_of(graph) > NEWEST:
        reporter.note(
            f"the file stays in opset {opset_of(graph)}: to run its INT8 graph in ONNX Runtime, set"
            " session.disable_quant_qdq to 1"
        )
    profile = choose_profile(options.shapes, None)
    if isinstance(given, ArrayData):
        data, axes = batch_arrays(given, inputs, profile, options)
    else:
        note_texts(given, options, reporter)
        names = tuple(each.name for each in inputs)
        data = tokenize_texts(tokenizer, given, names, profile, options)
        axes = {each.name: each.axes for each in inputs}
    shapes = bind_shapes(axes, profile)
    if has_qdq(graph):
        reporter.note("the ONNX file has Q/DQ: its own ranges are kept, the recipe is not used")
        fp32 = normalize(strip_qdq(loaded))
        used = tuple(data.calibration)
        return PreparedModel(
            fp32, graph, None, data.held_out, data.sha256(), shapes, used, by_recipe=False
        )
    guard = guard_of(options, shapes, inputs)
    return OnnxEntrance(source, data, shapes, graph, options.recipe, guard)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ModelError: it is damaged or is not ONNX.
        GraphError: its opset is too old to be converted, or it is a float model in half precision.
    """
    try:
        loaded = onnx.load(str(path))
        onnx.checker.check_model(loaded)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"{str(path)!r} is not a valid ONNX file ({first_line(error)})",
            wanted="an intact .onnx file with its external data beside it",
            todo="export or copy it again",
        ) from error
    loaded = raise_opset(loaded)
    # Float weights in half have lost bits; a Q/DQ file is taken for its codes and ranges.
    if not has_qdq(loaded) and _computes_in_half(loaded.graph):
        raise GraphError(
            f"{str(path)!r} holds float16 or bfloat16 tensors",
            wanted="a float32 model (its FP16 twin is made here)",
            todo="export it in float32",
        )
    return loaded


def _computes_in_half(graph: onnx.GraphProto) -> bool:
    """Tell whether half tensors go in or out, or a constant one goes anywhere but to a Cast."""
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    ends = (*graph.input, *graph.output)
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type in half}
    read = {name for node in graph.node if node.op_type != "Cast" for name in node.input}
    return bool(stored & read) or any(v.type.tensor_type.elem_type in half for v in ends)


def check_text_inputs(inputs: tuple[ModelInput, ...], path: Path) -> None:
    """Refuse inputs that texts cannot fill: of another type, or of a fixed size.

    Texts have many lengths, and padding to a fixed one would enter the ranges.

    Raises:
        CalibrationError: saying which arrays the model wants instead.
    """
    for given in inputs:
        dynamic = not any(isinstance(axis, int) for axis in given.axes)
        if given.dtype != "int64" or len(given.axes) != 2 or not dynamic:
            raise wanted_arrays(path.name, inputs)


def find_tokenizer(path: Path, folder: Path | None, inputs: tuple[ModelInput, ...]) -> Any:
    """Load the tokenizer of an ONNX file: from `folder`, or from the file's folder or its parent.

    Raises:
        ModelError: there is none.
        CalibrationError: it does not make these inputs.
    """
    transformers = optional.load("transformers")
    places = [folder] if folder is not None else [path.parent, path.parent.parent]
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.txt").is_file():
            tokenizer = _load_tokenizer(transformers, place)
            made = set(tokenizer("a", "b"))
            if not {given.name for given in inputs} <= made:
                raise wanted_arrays(path.name, inputs, f"its tokenizer makes {sorted(made)}")
            return tokenizer
    raise ModelError(
        f"no tokenizer in {[str(p) for p in places]}",
        wanted="tokenizer.json or vocab.txt",
        todo="pass --tokenizer FOLDER, or --calib FILE.npz with one array per input of the model",
    )


def _load_tokenizer(transformers: Any, place: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, KeyError):
        names = ["input_ids", "attention_mask", "token_type_ids"]
        try:
            return transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(place / "tokenizer.json"), model_input_names=names
            )
        except Exception as error:
            raise ModelError(
                f"the tokenizer in {str(place)!r} cannot be loaded ({error})",
                wanted="intact tokenizer files",
                todo="copy them again or pass another --tokenizer",
            ) from error
