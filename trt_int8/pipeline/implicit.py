"""Files for TensorRT's own calibrator (implicit INT8): its cache and the calibration batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.tensorrt_cache import from_ranges
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.files import write_whole
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions
from trt_int8.spec.build import CalibratorName, Flavour, ImplicitInt8
from trt_int8.spec.shapes import InputShape

CACHE_NAME = "calibration.cache"
_HEADER_OF: dict[CalibratorName, str] = {
    "entropy2": "EntropyCalibration2",
    "minmax": "MinMaxCalibration",
}


def write_implicit(
    prepared: PreparedModel, options: BuildOptions, folder: Path, work: Path
) -> ImplicitInt8 | None:
    """Write the cache with our ranges into the bundle, and the batches beside the work files.

    TensorRT takes the ranges from the cache and calibrates nothing; the batches are those the
    ranges were found with, for a TensorRT that asks for some.

    Returns:
        None if the build has explicit Q/DQ.

    Raises:
        CalibrationError: the text format cannot hold a tensor's name.
    """
    if options.implicit_int8 is None or prepared.ranges is None:
        return None
    version = str(optional.load(MODULE_OF[Flavour.TENSORRT]).__version__)
    numbers = ".".join(version.split(".")[:3])
    cache = from_ranges(prepared.ranges, numbers, _HEADER_OF[options.implicit_int8])
    write_whole(folder / CACHE_NAME, cache.to_text().encode())
    batches = work / "calibration.npz"
    arrays = {
        f"{number:06d}.{name}": array
        for number, batch in enumerate(batches_at_opt(prepared.calibration, prepared.shapes))
        for name, array in batch.items()
    }
    np.savez(batches, **arrays)  # type: ignore[arg-type]
    return ImplicitInt8(
        calibrator=options.implicit_int8,
        cache_path=str(folder / CACHE_NAME),
        batches_path=str(batches),
    )


def batches_at_opt(batches: tuple[Batch, ...], shapes: tuple[InputShape, ...]) -> Iterator[Batch]:
    """The texts again, each cut or filled with 0 to the `opt` shape; a rest of a batch is dropped.

    TensorRT calibrates at `opt` only, and does not know padding.
    """
    sizes = {shape.name: shape.opt for shape in shapes}
    texts = [
        {name: array[row] for name, array in batch.items()}
        for batch in batches
        for row in range(len(next(iter(batch.values()))))
    ]
    rows = min(size[0] for size in sizes.values())
    for start in range(0, len(texts) - rows + 1, rows):
        chunk = texts[start : start + rows]
        yield {
            name: np.stack([_filled(text[name], size[1:]) for text in chunk])
            for name, size in sizes.items()
        }


def _filled(sample: NDArray[Any], sizes: tuple[int, ...]) -> NDArray[Any]:
    cut = sample[tuple(slice(size) for size in sizes)]
    missing = [(0, size - had) for size, had in zip(sizes, cut.shape, strict=True)]
    return np.pad(cut, missing)
