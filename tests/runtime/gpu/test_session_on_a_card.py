"""`Session` from its opening on a card to its answers, over the stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.runtime.gpu.card_arrays import on_card
from tests.runtime.gpu.fake_trt import FakeTrt
from tests.runtime.gpu.fake_trt_types import PLAN, PROFILES
from tests.runtime.gpu.opened import Array, check_clean, fresh
from tests.support.bundles import fill, manifest_of
from trt_int8 import optional
from trt_int8.errors import DeviceError
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry
from trt_int8.spec.shapes import InputShape

NAMES = ("input_ids", "attention_mask")


def graph() -> bytes:
    """Only what a signature is read from."""
    kinds = {"input_ids": 7, "attention_mask": 7, "scores": TensorProto.FLOAT, "total": 7}
    values = [
        helper.make_tensor_value_info(
            name, kind, ["batch"] if name == "total" else ["batch", "sequence"]
        )
        for name, kind in kinds.items()
    ]
    ends = helper.make_graph([], "only its ends", values[:2], values[2:])
    return bytes(helper.make_model(ends).SerializeToString())


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    """A machine with cards and TensorRT, as `optional.load` finds them."""
    made, load = fresh(), optional.load
    made.input_names = NAMES
    found: dict[str, Any] = {"tensorrt": made, "cuda.bindings.driver": made.cuda}

    def loaded(name: str) -> ModuleType:
        module: ModuleType = found[name] if name in found else load(name)
        return module

    monkeypatch.setattr(optional, "load", loaded)
    return made


@pytest.fixture
def bundle(tmp_path: Path, trt: FakeTrt) -> Path:
    fill(tmp_path, {"model.int8.onnx": graph(), "sm75/int8.engine": PLAN})
    profiles = tuple(
        tuple(InputShape(name=n, min=low, opt=low, max=high) for n in NAMES)
        for low, high in PROFILES
    )
    manifest = manifest_of(tmp_path).model_copy(
        update={
            "flavour": Flavour.TENSORRT,
            "tensorrt_version": trt.__version__,
            "engines": (EngineEntry(path="sm75/int8.engine", sm=75, precision="int8"),),
            "profiles": profiles,
        }
    )
    (tmp_path / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return tmp_path


def feeds_of(batch: int, tokens: int) -> dict[str, Array]:
    random = np.random.default_rng(100 * batch + tokens)
    return {
        "input_ids": random.integers(1, 30000, (batch, tokens)),
        "attention_mask": np.ones((batch, tokens), np.int64),
    }


def check(outputs: dict[str, Array], feeds: dict[str, Array]) -> None:
    ids, mask = feeds["input_ids"], feeds["attention_mask"]
    np.testing.assert_array_equal(outputs["scores"], (2 * ids + mask).astype(np.float32))
    np.testing.assert_array_equal(outputs["total"], (ids * mask).sum(axis=1))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_a_session_pads_runs_and_cuts_on_the_card(bundle: Path, trt: FakeTrt, device: str) -> None:
    with Session.open(bundle, device, workers=2) as session:
        assert session.device.kind == "cuda"
        assert session.backend_name == "TensorRT 10.13.3"
        for batch, tokens in ((1, 17), (3, 31), (4, 64), (2, 65), (1, 299), (3, 31)):
            feeds = feeds_of(batch, tokens)
            check(session.run(feeds), feeds)
            check(session.run_async(feeds).result(), feeds)
    check_clean(trt)


def test_arrays_on_the_card_go_through_a_session(bundle: Path, trt: FakeTrt) -> None:
    with Session.open(bundle, "cuda:0") as session:
        feeds = feeds_of(3, 32)
        given = {name: on_card(trt.cuda, array) for name, array in feeds.items()}
        check(session.run(given), feeds)
        assert trt.script.count("cuMemcpyHtoDAsync") == 0
        for array in given.values():
            del trt.cuda.device[array.interface["data"][0]]
    check_clean(trt)


def test_a_warm_session_captures_nothing_more(bundle: Path, trt: FakeTrt) -> None:
    with Session.open(bundle, "cuda:0", workers=2) as session:
        session.warm_up([(1, 17), (3, 31)])
        captures = trt.script.count("cuStreamBeginCapture")
        for batch, tokens in ((1, 17), (3, 31)) * 4:
            session.run(feeds_of(batch, tokens))
        assert trt.script.count("cuStreamBeginCapture") == captures == 4
    check_clean(trt)


def test_a_session_may_do_without_graphs_or_keep_few(bundle: Path, trt: FakeTrt) -> None:
    feeds = [feeds_of(1, tokens) for tokens in (17, 25, 17, 25)]
    with Session.open(bundle, "cuda:0", options=SessionOptions(cuda_graphs=False)) as session:
        for one in feeds:
            check(session.run(one), one)
    assert trt.script.count("cuStreamBeginCapture") == 0
    with Session.open(bundle, "cuda:0", options=SessionOptions(graphs=1)) as session:
        for one in feeds:
            check(session.run(one), one)
        assert trt.cuda.alive()["executables"] == 1
    assert trt.script.count("cuStreamBeginCapture") == 4
    check_clean(trt)


def test_fixed_shapes_are_all_kept_ready(bundle: Path, trt: FakeTrt) -> None:
    options = SessionOptions(shapes=((1, 32), (2, 48), (4, 64)), graphs=1)
    with Session.open(bundle, "cuda:0", options=options) as session:
        session.warm_up()
        captures = trt.script.count("cuStreamBeginCapture")
        for batch, tokens in ((1, 17), (2, 40), (4, 64)) * 2:
            feeds = feeds_of(batch, tokens)
            check(session.run(feeds), feeds)
        assert trt.script.count("cuStreamBeginCapture") == captures == 3
    check_clean(trt)


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        # int64 [B, S] twice, float32 [B, S], int64 [B]
        (((1, 17),), (136, 136, 68, 8)),
        (((4, 16), (1, 80)), (640, 640, 320, 32)),  # of two profiles
        (((1, 64), (3, 19), (3, 17)), (512, 512, 256, 24)),  # of one
        ((), (4800, 4800, 2400, 32)),
    ],
)
def test_memory_is_had_for_the_largest_of_the_fixed_shapes(
    bundle: Path, trt: FakeTrt, shapes: tuple[tuple[int, int], ...], wanted: tuple[int, ...]
) -> None:
    options = SessionOptions(shapes=shapes)
    with Session.open(bundle, "cuda:0", workers=2, options=options) as session:
        session.warm_up()
        for batch, tokens in shapes or ((2, 300), (4, 64)):
            feeds = feeds_of(batch, tokens)
            check(session.run(feeds), feeds)
        sizes = {name: sizes_of(trt, name) for name in ("cuMemAlloc", "cuMemHostAlloc")}
    assert sizes == {"cuMemAlloc": [4096, *wanted] * 2, "cuMemHostAlloc": [*wanted] * 2}
    check_clean(trt)


def sizes_of(trt: FakeTrt, call: str) -> list[int]:
    """Bytes that a call was asked for, in order."""
    return [given[1] for given in trt.script.calls if given[0] == call]


def test_a_card_that_is_not_there_is_an_error(bundle: Path) -> None:
    with pytest.raises(DeviceError, match="no card cuda:5"):
        Session.open(bundle, "cuda:5")
