"""Calibration data of either kind, texts or arrays, for a model of either entrance."""

from __future__ import annotations

from pathlib import Path

from trt_int8.calibrate.arrays import (
    ArrayData,
    array_batches,
    check_arrays,
    describe_inputs,
    holds_arrays,
    how_to_make,
    read_arrays,
    split_arrays,
)
from trt_int8.calibrate.texts import Texts, builtin_texts, read_texts
from trt_int8.errors import CalibrationError
from trt_int8.model.inputs import ModelInput, fixed_batch, token_axes
from trt_int8.pipeline.data import CalibrationData
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.shapes import ShapeProfile

# Below this a single text moves the ranges, and the mean cosine of a quarter of them is coarse.
FEW_TEXTS = 100

Axes = dict[str, tuple[int | str | None, ...]]


def read_data(path: Path | None) -> Texts | ArrayData:
    """Read the calibration data that the user named; None for the built-in sentences.

    Raises:
        CalibrationError: it is missing, damaged or empty.
    """
    if path is not None and holds_arrays(path):
        return read_arrays(path)
    return read_texts(path or builtin_texts())


def note_texts(texts: Texts, options: InputOptions, reporter: Reporter) -> None:
    """Tell the user which texts are used, where it matters."""
    if options.calib is None:
        reporter.note(
            "the data are the built-in English sentences; pass --calib with texts of your own"
        )
    if len(texts.items) < FEW_TEXTS:
        reporter.note(
            f"{texts.origin} has only {len(texts.items)} texts: a few hundred give steadier ranges"
        )


def wanted_arrays(name: str, inputs: tuple[ModelInput, ...], why: str = "") -> CalibrationError:
    """The error for a model that texts cannot calibrate: which arrays it wants instead."""
    reads = ", ".join(repr(given.name) for given in inputs)
    return CalibrationError(
        f"{name!r} cannot be calibrated with texts: it reads {reads}{f', {why}' if why else ''}",
        wanted=f"--calib FILE.npz with {describe_inputs(inputs)}",
        todo=f"make it in Python from a few hundred real samples: {how_to_make(inputs)}",
    )


def batch_arrays(
    given: ArrayData, inputs: tuple[ModelInput, ...], profile: ShapeProfile, options: InputOptions
) -> tuple[CalibrationData, Axes]:
    """Check the arrays, split them, and batch them.

    Returns:
        The batches; and the axes of the inputs for the profile, where a dynamic axis that is
        neither batch nor tokens, and that the profile does not name, has the size of the arrays.

    Raises:
        CalibrationError: they are not what the model reads, or the recipe asks for padding.
    """
    settings = options.recipe.calibration
    if settings.pad_to is not None:
        raise CalibrationError(
            f"the recipe's pad_to is {settings.pad_to}",
            wanted="texts: arrays are used as they are",
            todo="leave pad_to out of the recipe",
        )
    check_arrays(given, inputs)
    used, held_out = split_arrays(given, settings.max_samples)
    batch = fixed_batch(inputs)
    batches = [
        array_batches(part, batch or settings.batch_size, whole=batch is not None)
        for part in (used, held_out)
    ]
    if not all(batches):
        raise CalibrationError(
            f"no file of {given.origin!r} fills batches of {batch}, the size the model takes",
            wanted="more samples per file",
            todo="put them into one .npz",
        )
    samples = sum(len(next(iter(each.values()))) for each in batches[0])
    return CalibrationData(samples, *batches), _axes(given, inputs, profile)


def _axes(given: ArrayData, inputs: tuple[ModelInput, ...], profile: ShapeProfile) -> Axes:
    tokens, axes = token_axes(inputs), {}
    for each in inputs:
        shape = given.files[0].arrays[each.name].shape
        axes[each.name] = tuple(
            axis
            if index in (0, tokens.get(each.name))
            or isinstance(axis, int)
            or (axis is not None and profile.of(axis) is not None)
            else shape[index]
            for index, axis in enumerate(each.axes)
        )
    return axes
