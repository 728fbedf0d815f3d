"""What both entrances share: batches of the calibration data, profiles, and their result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import onnx

from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.texts import (
    Texts,
    batches_of_one_length,
    padded_batches,
    split,
    tokenize,
)
from trt_int8.errors import ShapeError
from trt_int8.pipeline.options import InputOptions
from trt_int8.spec.ranges import RangeTable
from trt_int8.spec.rules import PlacementNote
from trt_int8.spec.shapes import InputShape, ShapeProfile, default_profile

_LONGEST_WITHOUT_AXIS = 512


@dataclass(frozen=True)
class PreparedModel:
    """Both twins as float32 graphs in normal form, and what to measure them with.

    Attributes:
        fp32: the float graph.
        int8: the same with Q/DQ.
        ranges: calibrated ranges; None for a file that came with Q/DQ.
        held_out: batches for the accuracy measurement.
        calibration_sha256: hash of the calibration arrays.
        shapes: the optimization profile, per input.
        calibration: batches the ranges were found with.
        placement: what the plan left in FP16, and why.
        by_recipe: the recipe says what is INT8; False if the model came with Q/DQ or quantizers.
    """

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    ranges: RangeTable | None
    held_out: list[Batch]
    calibration_sha256: str
    shapes: tuple[InputShape, ...]
    calibration: tuple[Batch, ...] = ()
    placement: tuple[PlacementNote, ...] = ()
    by_recipe: bool = True


@dataclass(frozen=True)
class CalibrationData:
    """Tokenized texts, or arrays as the user gave them.

    Attributes:
        samples: calibration texts, or samples of arrays.
        calibration: their batches.
        held_out: batches of the others.
    """

    samples: int
    calibration: list[Batch]
    held_out: list[Batch]

    def only(self, graph: onnx.ModelProto) -> CalibrationData:
        """The same with only the arrays that the graph reads: the exporter drops unused inputs."""
        names = {value.name for value in graph.graph.input}

        def kept(batches: list[Batch]) -> list[Batch]:
            return [{name: b[name] for name in b if name in names} for b in batches]

        return CalibrationData(self.samples, kept(self.calibration), kept(self.held_out))

    def sha256(self) -> str:
        """Hash of the calibration arrays: of what the model really saw, cuts included."""
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
    options: InputOptions,
) -> CalibrationData:
    """Split the texts, tokenize them for the inputs `names`, and batch them.

    Nothing is padded, unless the recipe says `pad_to`; held-out texts never are.

    Raises:
        CalibrationError: the recipe asks for padding, and the model has no attention mask.
        ShapeError: it asks for longer texts than the profile.
    """
    settings = options.recipe.calibration
    calibration, held_out = split(texts, settings.max_samples)
    longest = profile.dims["seq"].max if "seq" in profile.dims else _LONGEST_WITHOUT_AXIS
    pad_to = settings.pad_to
    if pad_to is not None and pad_to > longest:
        raise ShapeError(
            f"the recipe's pad_to is {pad_to}",
            wanted=f"at most {longest}, the longest sequence of the profile",
            todo="lower it, or raise seq in --shapes",
        )

    def batches(some: Texts, limit: int) -> list[Batch]:
        tokens = tokenize(tokenizer, some, names, limit)
        return [{**batch} for batch in batches_of_one_length(tokens, settings.batch_size)]

    if pad_to is None:
        used = batches(calibration, longest)
    else:
        tokens = tokenize(tokenizer, calibration, names, pad_to)
        padded = padded_batches(tokens, settings.batch_size, pad_to, _padding_of(tokenizer))
        used = [{**batch} for batch in padded]
    return CalibrationData(len(calibration.items), used, batches(held_out, longest))


def _padding_of(tokenizer: Any) -> dict[str, int]:
    """What a tokenizer fills its inputs with."""
    known = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id"}
    return {name: int(getattr(tokenizer, field, None) or 0) for name, field in known.items()}
