"""What both entrances share: token batches, cached ranges, and their result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from trt_int8.calibrate import cache
from trt_int8.calibrate.estimators import method_name
from trt_int8.calibrate.texts import Texts, TokenArrays, batches_of_one_length, split, tokenize
from trt_int8.errors import ShapeError
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Advance, Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.shapes import InputShape, ShapeProfile, default_profile

Measure = Callable[[Advance], dict[str, TensorRange]]
_PLACEHOLDER = TensorRange(amax=1.0, peak=1.0)
_LONGEST_WITHOUT_AXIS = 512


@dataclass(frozen=True)
class PreparedModel:
    """Both twins as float32 graphs in normal form, and what to measure them with.

    Attributes:
        fp32: the float graph.
        int8: the same with Q/DQ.
        ranges: calibrated ranges; None for a file that came with Q/DQ.
        held_out: token batches for the accuracy measurement.
        calibration_sha256: hash of the calibration token ids.
        shapes: the optimization profile, per input.
    """

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    ranges: RangeTable | None
    held_out: list[TokenArrays]
    calibration_sha256: str
    shapes: tuple[InputShape, ...]


@dataclass(frozen=True)
class TokenData:
    """Tokenized texts.

    Attributes:
        samples: calibration texts.
        calibration: their batches.
        held_out: batches of the other texts.
    """

    samples: int
    calibration: list[TokenArrays]
    held_out: list[TokenArrays]

    def only(self, graph: onnx.ModelProto) -> TokenData:
        """The same with only the arrays that the graph reads: the exporter drops unused inputs."""
        names = {value.name for value in graph.graph.input}

        def kept(batches: list[TokenArrays]) -> list[TokenArrays]:
            return [{name: b[name] for name in b if name in names} for b in batches]

        return TokenData(self.samples, kept(self.calibration), kept(self.held_out))

    def sha256(self) -> str:
        """Hash of the calibration token ids: of what the model really saw, cuts included."""
        digest = hashlib.sha256()
        for batch in self.calibration:
            for name, array in sorted(batch.items()):
                digest.update(f"{name}{array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()


def shapes_of(graph: onnx.ModelProto, shapes: tuple[InputShape, ...]) -> tuple[InputShape, ...]:
    """The shapes of the inputs that the graph really has."""
    names = {value.name for value in graph.graph.input}
    return tuple(shape for shape in shapes if shape.name in names)


def choose_profile(asked: ShapeProfile | None, limit: int | None) -> ShapeProfile:
    """The profile asked for, or the default one cut to the model's longest sequence.

    Raises:
        ShapeError: the profile asked for is longer than the model allows.
    """
    profile = asked or default_profile()
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


def tokenize_texts(
    tokenizer: Any,
    texts: Texts,
    names: tuple[str, ...],
    profile: ShapeProfile,
    options: BuildOptions,
) -> TokenData:
    """Split the texts, tokenize them for the inputs `names`, and batch them without padding."""
    settings = options.recipe.calibration
    calibration, held_out = split(texts, settings.max_samples)
    longest = profile.dims["seq"].max if "seq" in profile.dims else _LONGEST_WITHOUT_AXIS

    def batches(some: Texts) -> list[TokenArrays]:
        return batches_of_one_length(tokenize(tokenizer, some, names, longest), settings.batch_size)

    return TokenData(len(calibration.items), batches(calibration), batches(held_out))


@dataclass(frozen=True)
class RangeKey:
    """What a range table depends on besides the options."""

    source: ModelSource
    data: TokenData
    sites: tuple[str, ...]


def cached_ranges(
    key: RangeKey, options: BuildOptions, reporter: Reporter, measure: Measure
) -> RangeTable:
    """Ranges from the cache folder if made from the same model, texts, method and sites.

    Args:
        key: what is quantized, and with which data.
        options: recipe and cache folder.
        reporter: told of progress.
        measure: runs the calibration.

    Raises:
        CalibrationError: the cache file is damaged.
        RangeError: a tensor has no usable range.
    """
    wanted = RangeTable(
        method=method_name(options.recipe.calibration),
        samples=key.data.samples,
        model_sha256=key.source.sha256(),
        data_sha256=key.data.sha256(),
        ranges=dict.fromkeys(key.sites, _PLACEHOLDER),
    )
    path = cache.cache_path(options.cache, wanted) if options.cache is not None else None
    stored = cache.load(path, wanted) if path is not None else None
    if stored is not None:
        reporter.note(f"ranges taken from {path}")
        return stored
    with reporter.task("Calibrating", len(key.data.calibration)) as advance:
        table = wanted.model_copy(update={"ranges": measure(advance)})
    if path is not None:
        try:
            cache.save(path, table)
        except OSError as error:  # the ranges are at hand: a read-only folder is no reason to stop
            reporter.note(f"ranges not kept in {path.parent} ({error.strerror})")
    return table
