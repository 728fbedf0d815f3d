"""Calibration data as arrays: `.npz` files with one array per input of the model."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.texts import HELD_OUT_EVERY, MAX_HELD_OUT
from trt_int8.errors import CalibrationError, first_line
from trt_int8.model.inputs import ModelInput, fixed_batch

Batch = dict[str, NDArray[Any]]
# A quarter is held out: with fewer, accuracy would be measured on a single sample.
MIN_SAMPLES = 8
SUFFIX = ".npz"


@dataclass(frozen=True)
class ArrayFile:
    """The arrays of one file, by input name; the first axis of each counts samples."""

    path: Path
    arrays: Batch


@dataclass(frozen=True)
class ArrayData:
    """Samples in the order of files (by name) and of their rows.

    Attributes:
        files: each with arrays of one size; sizes may differ from file to file.
        origin: the file or folder they came from.
    """

    files: tuple[ArrayFile, ...]
    origin: str

    @property
    def names(self) -> frozenset[str]:
        """Names of the arrays of the first file."""
        return frozenset(self.files[0].arrays)


def holds_arrays(path: Path) -> bool:
    """Tell whether a calibration file is an `.npz`, or a folder (of such)."""
    return path.is_dir() or path.suffix.lower() == SUFFIX


def read_arrays(path: Path) -> ArrayData:
    """Read an `.npz` file, or all of a folder.

    Raises:
        CalibrationError: it is missing or damaged, or holds Python objects.
    """
    paths = sorted(p for p in path.iterdir() if holds_arrays(p)) if path.is_dir() else [path]
    if not paths:
        raise CalibrationError(
            f"the calibration folder {str(path)!r} has no .npz file",
            wanted="one or more .npz files with one array per input of the model",
            todo="make one in Python: np.savez('calib.npz', NAME=array, ...)",
        )
    return ArrayData(tuple(ArrayFile(p, _read(p)) for p in paths), str(path))


def _read(path: Path) -> Batch:
    try:
        # A pickle is a program: whoever wrote the file could run it here.
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is one array without a name")
        with file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CalibrationError(
            f"calibration file {str(path)!r} cannot be read ({_why(error)})",
            wanted="an .npz file of plain arrays",
            todo="write it with np.savez('calib.npz', NAME=array, ...)",
        ) from error
    if not found:
        raise CalibrationError(
            f"calibration file {str(path)!r} holds no array",
            wanted="one array per input of the model",
            todo="write it with np.savez('calib.npz', NAME=array, ...)",
        )
    return found


def _why(error: Exception) -> str:
    if "Object arrays" in str(error):
        return "it holds Python objects"
    # What NumPy does not know it takes for a pickle.
    return "it is no .npz file" if "allow_pickle" in str(error) else first_line(error)


def how_to_make(inputs: Iterable[ModelInput]) -> str:
    """The Python line that writes what a model wants."""
    names = [given.name for given in inputs]
    if all(name.isidentifier() for name in names):
        listed = ", ".join(f"{name}=..." for name in names)
    else:
        listed = "**{" + ", ".join(f"{name!r}: ..." for name in names) + "}"
    return f"np.savez('calib.npz', {listed})"


def describe_inputs(inputs: Iterable[ModelInput]) -> str:
    """What an `.npz` must hold: names, types, shapes."""
    return "; ".join(str(given) for given in inputs)


def check_arrays(data: ArrayData, inputs: tuple[ModelInput, ...]) -> None:
    """Refuse arrays that are not what the model reads.

    Raises:
        CalibrationError: naming the file, the array, and what was wanted.
    """
    for file in data.files:
        missing = [given for given in inputs if given.name not in file.arrays]
        extra = sorted(set(file.arrays) - {given.name for given in inputs})
        if missing or extra:
            verb, name = ("lacks", missing[0].name) if missing else ("holds", extra[0])
            raise CalibrationError(
                f"{str(file.path)!r} {verb} the array {name!r}",
                wanted=f"exactly the inputs of the model: {describe_inputs(inputs)}",
                todo=how_to_make(inputs),
            )
        for given in inputs:
            _check_array(file.path, given, file.arrays[given.name])
        _check_sizes(file, inputs)
        _check_masks(file, inputs)
    _check_samples(data, fixed_batch(inputs) or 1)


def _check_array(path: Path, given: ModelInput, array: NDArray[Any]) -> None:
    def refuse(came: str, todo: str) -> CalibrationError:
        return CalibrationError(
            f"array {given.name!r} of {str(path)!r} {came}", wanted=str(given), todo=todo
        )

    if array.ndim != len(given.axes):
        raise refuse(
            f"has {array.ndim} axes, {list(array.shape)}", "stack the samples along the first axis"
        )
    if str(array.dtype) != given.dtype:
        raise refuse(f"is {array.dtype}", f"convert it: .astype(np.{_numpy_name(given.dtype)})")
    wrong = [
        (axis, size, wanted)
        for axis, (size, wanted) in enumerate(zip(array.shape, given.axes, strict=True))
        if size == 0 or (axis and isinstance(wanted, int) and size != wanted)
    ]
    if wrong:
        axis, size, wanted = wrong[0]
        raise refuse(
            f"is {list(array.shape)}: axis {axis} has the size {size}",
            f"bring axis {axis} to {wanted if isinstance(wanted, int) and axis else 1}"
            f"{'' if isinstance(wanted, int) and axis else ' or more'}",
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        place = [int(index) for index in np.argwhere(~np.isfinite(array))[0]]
        raise refuse(f"holds NaN or infinity at {place}", "leave that sample out")


def _numpy_name(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype


def _check_sizes(file: ArrayFile, inputs: tuple[ModelInput, ...]) -> None:
    """Samples, and axes of one name, must be as many in each array."""
    seen: dict[str, tuple[int, str]] = {}
    for given in inputs:
        names = ["samples", *given.axes[1:]]
        for name, size in zip(names, file.arrays[given.name].shape, strict=True):
            if not isinstance(name, str):
                continue
            other, where = seen.setdefault(name, (size, given.name))
            if other != size:
                raise CalibrationError(
                    f"in {str(file.path)!r} the axis {name!r} has the size {other} in {where!r}"
                    f" and {size} in {given.name!r}",
                    wanted="the same in both",
                    todo="make the arrays from the same samples",
                )


def _check_masks(file: ArrayFile, inputs: tuple[ModelInput, ...]) -> None:
    for given in inputs:
        if not given.masks_tokens:
            continue
        mask = file.arrays[given.name]
        if not np.isin(mask, (0, 1)).all():
            came = f"holds {mask[~np.isin(mask, (0, 1))][0]}"
        elif not mask.any(axis=1).all():
            came = f"is 0 everywhere in sample {int(np.argmin(mask.any(axis=1)))}"
        else:
            continue
        raise CalibrationError(
            f"array {given.name!r} of {str(file.path)!r} {came}",
            wanted="1 for real tokens, 0 for padding, and a real token in each sample",
            todo="correct the mask, or leave that sample out",
        )


def _check_samples(data: ArrayData, batch: int) -> None:
    sizes = [len(next(iter(file.arrays.values()))) for file in data.files]
    wanted = max(MIN_SAMPLES, HELD_OUT_EVERY * batch)
    if sum(sizes) < wanted:
        why = f" (the model takes batches of {batch}, and a quarter is held out)"
        raise CalibrationError(
            f"{data.origin!r} has {sum(sizes)} samples",
            wanted=f"at least {wanted}{why if batch > 1 else ''}; a few hundred are better",
            todo="add samples along the first axis of each array",
        )
    first = data.files[0].arrays
    if len(data.files) == 1 and all(bool((a == a[:1]).all()) for a in first.values()):
        raise CalibrationError(
            f"all samples of {data.origin!r} are the same",
            wanted="different samples",
            todo="fill it with real data",
        )


def split_arrays(data: ArrayData, max_samples: int) -> tuple[ArrayData, ArrayData]:
    """Split into calibration and held-out samples: every fourth sample is held out.

    Returns:
        At most `max_samples` samples to calibrate with and at most 512 held-out ones, in order.
    """
    number, used, held = 0, 0, 0
    calibration, held_out = [], []
    for file in data.files:
        rows: tuple[list[int], list[int]] = ([], [])
        for row in range(len(next(iter(file.arrays.values())))):
            number += 1
            if number % HELD_OUT_EVERY == 0 and held < MAX_HELD_OUT:
                rows[1].append(row)
                held += 1
            elif number % HELD_OUT_EVERY and used < max_samples:
                rows[0].append(row)
                used += 1
        calibration.append(_taken(file, rows[0]))
        held_out.append(_taken(file, rows[1]))
    return ArrayData(tuple(calibration), data.origin), ArrayData(tuple(held_out), data.origin)


def _taken(file: ArrayFile, rows: list[int]) -> ArrayFile:
    return ArrayFile(file.path, {name: array[rows] for name, array in file.arrays.items()})


def array_batches(data: ArrayData, batch_size: int, *, whole: bool) -> list[Batch]:
    """Batches of neighbours; each of one file.

    Args:
        data: samples.
        batch_size: samples per batch.
        whole: drop batches of fewer, for a model that takes this size only.
    """
    return [batch for file in data.files for batch in _chunks(file.arrays, batch_size, whole=whole)]


def _chunks(arrays: Batch, size: int, *, whole: bool) -> Iterator[Batch]:
    samples = len(next(iter(arrays.values())))
    for start in range(0, samples - (size - 1 if whole else 0), size):
        yield {
            name: np.ascontiguousarray(array[start : start + size])
            for name, array in arrays.items()
        }
