"""The ONNX entrance: a float graph is quantized by rule, a Q/DQ graph is normalized."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.annotate.onnx_model import plan_onnx, weights_of
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.texts import Texts, TokenArrays
from trt_int8.errors import GraphError, ModelError, first_line
from trt_int8.evaluate.compare import Outputs, float_outputs, run
from trt_int8.graph.insert import has_qdq, insert_qdq, strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import (
    PreparedModel,
    TokenData,
    choose_profile,
    shapes_of,
    tokenize_texts,
)
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import InputShape, bind_shapes

# DequantizeLinear has an axis (one scale per output channel) from 13 on.
MIN_OPSET = 13


class OnnxEntrance:
    """A float graph in normal form that is quantized by rule."""

    def __init__(
        self,
        source: ModelSource,
        data: TokenData,
        shapes: tuple[InputShape, ...],
        graph: onnx.ModelProto,
        recipe: Recipe,
    ) -> None:
        """Plan where Q/DQ go.

        Raises:
            RecipeError: nothing in the graph matches the recipe.
        """
        self._graph, self._plan = graph, plan_onnx(graph, recipe)
        self._shapes = shapes_of(graph, shapes)
        self.source, self.data, self.sites = source, data.only(graph), self._plan.tensors

    @property
    def tensors(self) -> OnnxTensors:
        """Gives the statistics of the sites."""
        return OnnxTensors(self._graph, self.sites)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Per input of a Linear the weights [K, N] of all Linears that read this tensor."""
        return weights_of(self._graph, self._plan)

    def answers(self, ranges: dict[str, TensorRange] | None, batches: list[TokenArrays]) -> Outputs:
        """Float outputs per batch, with Q/DQ by `ranges`."""
        quantized = ranges is not None
        graph = insert_qdq(self._graph, self._plan, ranges) if ranges is not None else self._graph
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("model.int8.onnx" if quantized else "model.fp32.onnx")
            onnx.save(graph, str(path))
            outputs = run(path, batches, lambda: None)
        names = float_outputs(self._graph)
        return [{name: output[name] for name in names} for output in outputs]

    def finish(self, ranges: RangeTable, reporter: Reporter) -> PreparedModel:
        """Insert Q/DQ with these ranges."""
        with reporter.task("Inserting Q/DQ"):
            int8 = insert_qdq(self._graph, self._plan, ranges.ranges)
        data = self.data
        return PreparedModel(
            fp32=self._graph,
            int8=int8,
            ranges=ranges,
            held_out=data.held_out,
            calibration_sha256=data.sha256(),
            shapes=self._shapes,
            calibration=tuple(data.calibration),
        )


def enter_onnx(
    source: ModelSource, options: InputOptions, reporter: Reporter, texts: Texts
) -> Entrance | PreparedModel:
    """Load an ONNX file whose inputs are what its tokenizer makes.

    Returns:
        A float graph ready to calibrate; a file that came with Q/DQ is prepared already.

    Raises:
        TrtInt8Error: of the step that failed.
    """
    with reporter.task("Loading the model"):
        loaded = load_onnx(source.path)
        graph = normalize(loaded)
        names = token_inputs(graph, source.path)
        check_axes(graph, source.path)
        profile = choose_profile(options.shapes, None)
        shapes = bind_shapes(input_axes(graph), profile)
        tokenizer = find_tokenizer(source.path, options.tokenizer, names)
    data = tokenize_texts(tokenizer, texts, names, profile, options)
    if has_qdq(graph):
        reporter.note("the ONNX file has Q/DQ: its own ranges are kept, the recipe is not used")
        fp32 = normalize(strip_qdq(loaded))
        return PreparedModel(fp32, graph, None, data.held_out, data.sha256(), shapes)
    return OnnxEntrance(source, data, shapes, graph, options.recipe)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ModelError: it is damaged or is not ONNX.
        GraphError: its opset is too old.
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
    opset = max((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise GraphError(
            f"{str(path)!r} uses opset {opset}",
            wanted=f"opset {MIN_OPSET} or newer",
            todo="export it with opset_version=17",
        )
    if _computes_in_half(loaded.graph):
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


def token_inputs(graph: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Names of the graph's inputs.

    Raises:
        ModelError: one of them is not int64, so it does not come from a tokenizer.
    """
    for value in graph.graph.input:
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.INT64:
            raise ModelError(
                f"the input {value.name!r} of {path.name!r} is"
                f" {onnx.TensorProto.DataType.Name(kind).lower()}",
                wanted="int64 token inputs: only text models are supported",
                todo="export a model that reads token ids",
            )
    return tuple(value.name for value in graph.graph.input)


def check_axes(model: onnx.ModelProto, path: Path) -> None:
    """Refuse fixed input sizes: texts have many lengths, and padding would enter the ranges.

    Raises:
        GraphError: naming the input and its axes.
    """
    for name, axes in input_axes(model).items():
        if len(axes) != 2 or any(isinstance(axis, int) for axis in axes):
            raise GraphError(
                f"input {name!r} of {path.name!r} has the axes {list(axes)}",
                wanted="two dynamic axes, batch and sequence",
                todo="export the model with dynamic axes",
            )


def input_axes(model: onnx.ModelProto) -> dict[str, tuple[int | str | None, ...]]:
    """Per graph input its axes: a fixed size, the name of a dynamic axis, or None if unnamed."""
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }


def find_tokenizer(path: Path, folder: Path | None, names: tuple[str, ...]) -> Any:
    """Load the tokenizer of an ONNX file: from `folder`, or from the file's folder or its parent.

    Raises:
        ModelError: there is none, or it does not make the inputs `names`.
    """
    transformers = optional.load("transformers")
    places = [folder] if folder is not None else [path.parent, path.parent.parent]
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.txt").is_file():
            tokenizer = _load_tokenizer(transformers, place)
            made = set(tokenizer("a", "b"))
            if not set(names) <= made:
                raise ModelError(
                    f"{path.name!r} has the inputs {list(names)}",
                    wanted=f"inputs that its tokenizer makes: {sorted(made)}",
                    todo="pass the right --tokenizer; only text models are supported",
                )
            return tokenizer
    raise ModelError(
        f"no tokenizer in {[str(p) for p in places]}",
        wanted="tokenizer.json or vocab.txt",
        todo="pass --tokenizer FOLDER",
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
