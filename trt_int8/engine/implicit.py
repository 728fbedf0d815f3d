"""Implicit INT8: TensorRT's own calibrator, by Polygraphy, for TensorRT 8.6 to 10."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.errors import CalibrationError, TargetError, first_line
from trt_int8.spec.build import Flavour, ImplicitInt8
from trt_int8.spec.shapes import Profile

Types = dict[str, "np.dtype[Any]"]


def check_implicit(flavour: Flavour, module: ModuleType | None = None) -> None:
    """Refuse implicit INT8 where TensorRT has no calibrators, before any work.

    Args:
        flavour: which TensorRT.
        module: its package, if it is loaded already.

    Raises:
        MissingPackageError: the package is not installed.
        TargetError: it is TensorRT 11 or TensorRT-RTX.
    """
    trt: Any = module if module is not None else optional.load(MODULE_OF[flavour])
    if hasattr(trt, "IInt8EntropyCalibrator2") and hasattr(trt.BuilderFlag, "INT8"):
        return
    product = "TensorRT-RTX" if flavour is Flavour.RTX else "TensorRT"
    raise TargetError(
        f"{product} {trt.__version__} has no INT8 calibrators (TensorRT removed them in 11.0)",
        wanted="TensorRT 8.6 to 10 for --implicit-int8",
        todo="leave --implicit-int8 out: explicit Q/DQ is the default; an old cache is taken over"
        " by 'trt-int8 calib convert CACHE ranges.json' and '--ranges ranges.json'",
    )


def attach_calibrator(
    trt: Any,
    config: Any,
    network: Any,
    profile: Any,
    implicit: ImplicitInt8,
    shapes: Profile,
) -> None:
    """Give a builder configuration its calibrator.

    Args:
        trt: the TensorRT package; `check_implicit` let it pass.
        config: builder configuration; it keeps the calibrator alive.
        network: the parsed network.
        profile: optimization profile of `shapes`; TensorRT calibrates at its `opt` shape.
        implicit: which calibrator and its files.
        shapes: the network's inputs.

    Raises:
        CalibrationError: there is no cache, and the batches do not fit the network.
    """
    types: Types = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        types[tensor.name] = np.dtype(trt.nptype(tensor.dtype))
    config.int8_calibrator = make_calibrator(trt, implicit, shapes, types)
    config.set_calibration_profile(profile)


def make_calibrator(trt: Any, implicit: ImplicitInt8, shapes: Profile, types: Types) -> Any:
    """Polygraphy's calibrator: it hands TensorRT the cache, or without one the batches.

    With a cache it has no batches, like the calibrator of NVIDIA DeepStream. TensorRT asks for
    some only when it refuses the cache (of another version, say), and then the build fails: it
    never falls back to ranges of its own in silence.

    Args:
        trt: the TensorRT package.
        implicit: which calibrator and its files.
        shapes: the network's inputs; batches have the `opt` shape.
        types: dtype of each input in the network.

    Raises:
        CalibrationError: there is no cache, and the batches do not fit the network.
    """
    stored = Path(implicit.cache_path)
    batches: CalibrationBatches | tuple[()] = ()
    # Polygraphy too takes an empty file for none.
    if not (stored.is_file() and stored.stat().st_size > 0):
        batches = CalibrationBatches(Path(implicit.batches_path), shapes, types)
        batches.check()
    minmax = implicit.calibrator == "minmax"
    base = trt.IInt8MinMaxCalibrator if minmax else trt.IInt8EntropyCalibrator2
    polygraphy = optional.load("polygraphy.backend.trt")
    return polygraphy.Calibrator(batches, cache=implicit.cache_path, BaseClass=base)


class CalibrationBatches:
    """The batches of one file; each iteration reads them one at a time, in order."""

    def __init__(self, path: Path, shapes: Profile, types: Types) -> None:
        """Read nothing yet.

        Args:
            path: .npz of arrays "<index>.<input>", integers.
            shapes: inputs of the network, by name; batches have the `opt` shape.
            types: dtype of each input in the network. TensorRT gets an address and no dtype, and
                TensorRT 8.6 makes INT64 inputs INT32, so each array is cast to it.
        """
        self._path, self._types = path, types
        self._shapes = {shape.name: shape.opt for shape in shapes}

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Each batch: arrays by input name."""
        with np.load(self._path, allow_pickle=False) as arrays:
            for keys in _keys_by_batch(arrays.files):
                yield {
                    name: np.asarray(arrays[key], self._types.get(name))
                    for name, key in keys.items()
                }

    def check(self) -> None:
        """Read all batches once: an error while TensorRT calibrates only looks like their end.

        Raises:
            CalibrationError: the file is missing, damaged or empty, or a batch has other inputs
                or shapes than the network's `opt`.
        """
        number = -1
        try:
            for number, batch in enumerate(self):
                shapes = {name: array.shape for name, array in batch.items()}
                if shapes != self._shapes:
                    raise CalibrationError(
                        f"batch {number} of {self._path.name!r} has {_text(shapes)}",
                        wanted=f"{_text(self._shapes)}, the opt shape: TensorRT calibrates there",
                        todo="write the batches again, with this --shapes",
                    )
        except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise CalibrationError(
                f"calibration batches {self._path.name!r} cannot be read ({first_line(error)})",
                wanted="an .npz of arrays named 000000.input_ids and so on",
                todo="write it again",
            ) from error
        if number < 0:
            raise CalibrationError(
                f"{self._path.name!r} holds no batch",
                wanted="at least one to calibrate on",
                todo="write it again with calibration texts",
            )


def _keys_by_batch(keys: list[str]) -> list[dict[str, str]]:
    """Per batch, in order of its number: the key of each input."""
    found: dict[int, dict[str, str]] = {}
    for key in keys:
        index, _, name = key.partition(".")
        found.setdefault(int(index), {})[name] = key
    return [found[index] for index in sorted(found)]


def _text(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shapes[name])}" for name in sorted(shapes))
