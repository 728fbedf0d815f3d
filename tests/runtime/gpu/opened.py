"""A backend over stand-ins for driver and TensorRT, and requests for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_trt import FakeTrt
from tests.runtime.gpu.fake_trt_types import PLAN, PROFILES
from tests.support.bundles import fill, manifest_of
from trt_int8.runtime.checks import CheckedBundle
from trt_int8.runtime.gpu.backend import EngineBackend, GpuOptions
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.spec.build import Flavour
from trt_int8.spec.shapes import InputShape

Array = NDArray[Any]


def checked_bundle(folder: Path, flavour: str, **changes: Any) -> CheckedBundle:
    """A bundle that was checked for a card: one engine and an ONNX file."""
    fill(folder, {"model.int8.onnx": b"graph", "sm75/int8.engine": PLAN})
    kind = Flavour.RTX if flavour == "rtx" else Flavour.TENSORRT
    manifest = manifest_of(folder).model_copy(update={"flavour": kind, **changes})
    model, engine = folder / "model.int8.onnx", folder / "sm75" / "int8.engine"
    return CheckedBundle(folder, manifest, model, engine, "int8")


def signature() -> Signature:
    """What the fake engine's ONNX file would say."""
    axes = ("batch", "sequence")
    (smallest, _), (_, largest) = PROFILES
    inputs = tuple(TensorInfo(n, "int64", axes, smallest, largest) for n in ("ids", "mask"))
    outputs = (TensorInfo("scores", "float32", axes), TensorInfo("total", "int64", axes[:1]))
    profiles = tuple(
        tuple(InputShape(name=one.name, min=smallest, opt=smallest, max=largest) for one in inputs)
        for smallest, largest in PROFILES
    )
    return Signature(inputs, outputs, {"ids": 1, "mask": 1}, "mask", profiles)


def open_backend(folder: Path, trt: FakeTrt, **options: Any) -> EngineBackend:
    """Open the fake engine on card 0."""
    settings: dict[str, Any] = {
        "cache_folder": folder / "cache",
        "driver": trt.cuda,
        "tensorrt": trt,
    }
    checked = checked_bundle(folder / "bundle", trt.flavour)
    return EngineBackend(checked, signature(), 0, GpuOptions(**(settings | options)))


@contextmanager
def opened(folder: Path, trt: FakeTrt, **options: Any) -> Iterator[EngineBackend]:
    """Open and close; afterwards nothing is left and nothing was done wrong."""
    backend = open_backend(folder, trt, **options)
    try:
        yield backend
    finally:
        backend.close()
    check_clean(trt)


def check_clean(trt: FakeTrt) -> None:
    """Everything was freed once, in order, and every call was allowed."""
    assert trt.script.faults == []
    assert trt.cuda.alive() == {}
    assert trt.living() == []
    assert (trt.cuda.retained, trt.cuda.stack) == (0, [])


def fresh(flavour: str = "10") -> FakeTrt:
    """A machine with two cards and one TensorRT."""
    return FakeTrt(FakeCuda(), flavour)


def request(batch: int, tokens: int, seed: int = 0) -> dict[str, Array]:
    """Token ids and a mask with holes."""
    random = np.random.default_rng(1000 * batch + tokens + seed)
    shape = (batch, tokens)
    return {"ids": random.integers(1, 30000, shape), "mask": random.integers(0, 2, shape)}


def check(outputs: dict[str, Array], feeds: dict[str, Array]) -> None:
    """The outputs are those of the model: types, shapes and every value."""
    wanted = {
        "scores": (2 * feeds["ids"] + feeds["mask"]).astype(np.float32),
        "total": (feeds["ids"] * feeds["mask"]).sum(axis=1),
    }
    assert list(outputs) == list(wanted)
    for name, array in wanted.items():
        assert outputs[name].dtype == array.dtype
        np.testing.assert_array_equal(outputs[name], array)
