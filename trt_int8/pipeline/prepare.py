"""From a model to its float32 and INT8 graphs: the PyTorch entrance and the ONNX entrance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError

from trt_int8 import optional
from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate import cache
from trt_int8.calibrate.estimators import method_name
from trt_int8.calibrate.onnx_ranges import collect_onnx_ranges
from trt_int8.calibrate.texts import (
    Texts,
    TokenArrays,
    batches_of_one_length,
    builtin_texts,
    read_texts,
    split,
    tokenize,
)
from trt_int8.calibrate.torch_ranges import apply_ranges, collect_ranges
from trt_int8.errors import GraphError, ModelError, ShapeError
from trt_int8.graph.export import export_onnx
from trt_int8.graph.insert import has_qdq, insert_qdq, strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Advance, Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.shapes import DEFAULT_SHAPES, ShapeProfile, parse_shapes

_PLACEHOLDER = TensorRange(amax=1.0, peak=1.0)


@dataclass(frozen=True)
class PreparedModel:
    """Both twins as float32 graphs in normal form, and what to measure them with.

    Attributes:
        fp32: the float graph.
        int8: the same with Q/DQ.
        ranges: calibrated ranges; None for a file that came with Q/DQ.
        held_out: token batches for the accuracy measurement.
        calibration_sha256: hash of the calibration texts.
        profile: shapes to build for.
    """

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    ranges: RangeTable | None
    held_out: list[TokenArrays]
    calibration_sha256: str
    profile: ShapeProfile


@dataclass(frozen=True)
class _Data:
    texts: Texts
    calibration: list[TokenArrays]
    held_out: list[TokenArrays]


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
    if source.kind == "onnx":
        return _prepare_onnx(source, options, reporter, texts)
    return _prepare_torch(source, options, reporter, texts)


def _prepare_torch(
    source: ModelSource, options: BuildOptions, reporter: Reporter, texts: Texts
) -> PreparedModel:
    with reporter.task("Loading the model"):
        model = load_text_model(source)
        profile = _profile(options.shapes, model.max_length)
        use_primitive_attention(model.backbone)
    data = _tokenize(model.tokenizer, texts, model.input_names, profile, options)
    probe = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)
    annotated = annotate(model.wrapper, probe, options.recipe)
    ranges = _torch_ranges(source, options, reporter, (model, annotated, data))
    apply_ranges(annotated, ranges.ranges)
    with reporter.task("Exporting to ONNX", 2) as advance:
        fp32 = export_onnx(model, annotated, quantized=False)
        advance(1)
        int8 = export_onnx(model, annotated, quantized=True)
    return PreparedModel(fp32, int8, ranges, data.held_out, data.texts.sha256(), profile)


def _torch_ranges(
    source: ModelSource,
    options: BuildOptions,
    reporter: Reporter,
    parts: tuple[TextModel, AnnotatedModel, _Data],
) -> RangeTable:
    model, annotated, data = parts
    settings = options.recipe.calibration

    def measure(advance: Advance) -> dict[str, TensorRange]:
        return collect_ranges(model, annotated, data.calibration, settings, lambda: advance(1))

    return _cached(source, options, reporter, (tuple(annotated.activations), data), measure)


def _prepare_onnx(
    source: ModelSource, options: BuildOptions, reporter: Reporter, texts: Texts
) -> PreparedModel:
    with reporter.task("Loading the model"):
        loaded = load_onnx(source.path)
        profile = _profile(options.shapes, None)
        names = tuple(i.name for i in loaded.graph.input)
        tokenizer = _tokenizer_of(source.path, options.tokenizer)
        data = _tokenize(tokenizer, texts, names, profile, options)
        given = normalize(loaded)
    if has_qdq(given):
        reporter.note("the ONNX file has Q/DQ: its own ranges are kept, the recipe is not used")
        fp32 = normalize(strip_qdq(loaded))
        return PreparedModel(fp32, given, None, data.held_out, data.texts.sha256(), profile)
    plan = plan_onnx(given, options.recipe)
    settings = options.recipe.calibration

    def measure(advance: Advance) -> dict[str, TensorRange]:
        return collect_onnx_ranges(
            given, plan.tensors, data.calibration, settings, lambda: advance(1)
        )

    ranges = _cached(source, options, reporter, (plan.tensors, data), measure)
    int8 = insert_qdq(given, plan, ranges.ranges)
    return PreparedModel(given, int8, ranges, data.held_out, data.texts.sha256(), profile)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ModelError: it is damaged, is not ONNX, or has an input that is not token ids.
    """
    try:
        loaded = onnx.load(str(path))
        onnx.checker.check_model(loaded)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"{str(path)!r} is not a valid ONNX file ({str(error).splitlines()[0]})",
            wanted="an intact .onnx file with its external data beside it",
            todo="export or copy it again",
        ) from error
    opset = max((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < 13:
        raise GraphError(
            f"{str(path)!r} uses opset {opset}",
            wanted="opset 13 or newer (per-channel DequantizeLinear)",
            todo="export it with opset_version=17",
        )
    return loaded


def _tokenizer_of(path: Path, folder: Path | None) -> Any:
    transformers = optional.load("transformers")
    places = [folder] if folder is not None else [path.parent, path.parent.parent]
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.txt").is_file():
            try:
                return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
            except (OSError, ValueError, KeyError):
                return transformers.PreTrainedTokenizerFast(
                    tokenizer_file=str(place / "tokenizer.json")
                )
    raise ModelError(
        f"no tokenizer in {[str(p) for p in places]}",
        wanted="tokenizer.json or vocab.txt",
        todo="pass --tokenizer FOLDER",
    )


def _profile(asked: ShapeProfile | None, limit: int | None) -> ShapeProfile:
    profile = asked or parse_shapes(DEFAULT_SHAPES)
    seq = profile.dims.get("seq")
    if limit is None or seq is None or seq.max <= limit:
        return profile
    if asked is None:
        return profile.with_limit("seq", limit)
    raise ShapeError(
        f"--shapes asks for sequences of {seq.max} tokens",
        wanted=f"at most {limit}, the model's limit",
        todo=f"pass seq={min(seq.min, limit)}:{min(seq.opt, limit)}:{limit}",
    )


def _tokenize(
    tokenizer: Any,
    texts: Texts,
    names: tuple[str, ...],
    profile: ShapeProfile,
    options: BuildOptions,
) -> _Data:
    settings = options.recipe.calibration
    calibration, held_out = split(texts, settings.max_samples)
    longest = profile.dims["seq"].max if "seq" in profile.dims else 512

    def batches(some: Texts) -> list[TokenArrays]:
        return batches_of_one_length(tokenize(tokenizer, some, names, longest), settings.batch_size)

    return _Data(calibration, batches(calibration), batches(held_out))


def _cached(
    source: ModelSource,
    options: BuildOptions,
    reporter: Reporter,
    parts: tuple[tuple[str, ...], _Data],
    measure: Any,
) -> RangeTable:
    """Ranges from the cache folder if made from the same model, texts, method and sites."""
    sites, data = parts
    wanted = RangeTable(
        method=method_name(options.recipe.calibration),
        samples=len(data.texts.items),
        model_sha256=source.sha256(),
        data_sha256=data.texts.sha256(),
        ranges=dict.fromkeys(sites, _PLACEHOLDER),
    )
    path = cache.cache_path(options.cache, wanted) if options.cache is not None else None
    stored = cache.load(path, wanted) if path is not None else None
    if stored is not None:
        reporter.note(f"ranges taken from {path}")
        return stored
    with reporter.task("Calibrating", len(data.calibration)) as advance:
        table = wanted.model_copy(update={"ranges": measure(advance)})
    if path is not None:
        cache.save(path, table)
    return table
