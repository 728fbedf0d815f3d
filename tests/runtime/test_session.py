from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import tiny_int8
from tests.support.tiny_int8 import bundle, feeds, wanted
from trt_int8 import optional
from trt_int8.errors import (
    BundleError,
    DeviceError,
    MissingPackageError,
    RequestError,
    SessionError,
    TrtInt8Error,
)
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session

FIXED = ((1, 16), (4, 16), (2, 64))
KINDS: dict[str, Any] = {
    "openvino": {"options": SessionOptions(runtime="openvino")},
    "two workers": {"options": SessionOptions(runtime="openvino"), "workers": 2},
    "fixed shapes": {"options": SessionOptions(runtime="openvino", shapes=FIXED)},
    "onnxruntime": {"options": SessionOptions(runtime="onnxruntime")},
    "fixed on onnxruntime": {"options": SessionOptions(runtime="onnxruntime", shapes=FIXED)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module", params=KINDS)
def session(folder: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param != "onnxruntime":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with Session.open(folder, "cpu", **KINDS[request.param]) as opened:
        yield opened


def assert_right(outputs: dict[str, Any], given: dict[str, Any]) -> None:
    for name, expected in wanted(given).items():
        assert outputs[name].shape == expected.shape
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 11), tokens=st.integers(1, 64), seed=st.integers(0, 9))
def test_every_batch_and_length_gets_the_answer_of_exact_arithmetic(
    session: Session, batch: int, tokens: int, seed: int
) -> None:
    request = feeds(batch, tokens, seed)
    assert_right(session.run(request), request)


@pytest.mark.parametrize("shape", [(1, 3), (5, 17), (7, 64)])
def test_every_route_gives_the_same_bits(session: Session, shape: tuple[int, int]) -> None:
    request = feeds(*shape)
    whole = session.run(request)
    later = session.run_async(request).result(20)
    with session.map({n: v[i] for n, v in request.items()} for i in range(shape[0])) as run:
        mapped = [answer.outputs or {} for answer in run]
    for name, array in whole.items():
        assert later[name].tobytes() == array.tobytes()
        assert np.stack([each[name] for each in mapped]).tobytes() == array.tobytes()


def test_answers_stay_when_others_follow(session: Session) -> None:
    first, second = feeds(2, 9, seed=1), feeds(2, 9, seed=2)
    kept = session.run(first)
    session.run(second)
    assert_right(kept, first)


def test_a_request_is_not_changed(session: Session) -> None:
    request = feeds(3, 5)
    before = {name: array.copy() for name, array in request.items()}
    session.run(request)
    assert all((request[name] == before[name]).all() for name in before)


def test_threads_share_it(session: Session) -> None:
    requests = [feeds(1 + i % 5, 1 + i % 60, seed=i) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for request, outputs in zip(requests, pool.map(session.run, requests), strict=True):
            assert_right(outputs, request)


def test_torch_tensors_and_narrow_integers_are_taken(session: Session) -> None:
    torch = pytest.importorskip("torch")
    request = feeds(2, 6)
    assert_right(session.run({n: torch.from_numpy(v) for n, v in request.items()}), request)
    assert_right(session.run({n: v.astype(np.int32) for n, v in request.items()}), request)
    assert_right(session.run({n: v.tolist() for n, v in request.items()}), request)


def test_arrays_that_may_not_be_written_are_taken(session: Session) -> None:
    request = feeds(2, 16)
    for array in request.values():
        array.flags.writeable = False
    for _ in range(2):
        assert_right(session.run(request), request)


def test_warming_up_counts_shapes(session: Session) -> None:
    seen: list[None] = []
    count = session.warm_up(advance=lambda: seen.append(None))
    assert session.buckets is not None
    fixed = bool(session.signature.profiles)
    assert count == len(seen) == (len(FIXED) if fixed else len(session.buckets.lengths))
    assert session.warm_up([(2, 7)]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": np.zeros((2, 65), np.int64)}, "65 tokens"),
        ({"input_ids": np.zeros((2, 3), np.int64)}, "tokens"),
        ({"input_ids": np.zeros((2, 4), np.float32)}, "float32"),
        ({"ids": np.zeros((2, 4), np.int64)}, "unknown"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_the_next_one_runs(
    session: Session, change: dict[str, Any], words: str
) -> None:
    request = feeds(2, 4)
    if "65" in words:
        change = {name: np.zeros((2, 65), np.int64) for name in request}
    for call in (session.run, session.run_async):
        with pytest.raises(RequestError, match=words):
            call(request | change)
    assert_right(session.run(request), request)


def test_memory_of_a_gpu_is_refused_on_a_cpu(session: Session) -> None:
    class OnCard:
        __cuda_array_interface__: ClassVar = {"shape": (1, 4), "typestr": "<i8", "data": (1, False)}

    with pytest.raises(RequestError, match="memory of a GPU"):
        session.run(feeds(1, 4) | {"input_ids": OnCard()})


def test_a_closed_session_refuses(folder: Path) -> None:
    session = Session.open(folder, "cpu", options=SessionOptions(runtime="onnxruntime"))
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run(feeds(1, 4))


def test_close_finishes_what_was_started(folder: Path) -> None:
    session = Session.open(folder, "cpu")
    requests = [feeds(1, 4, seed=i) for i in range(4)]
    futures = [session.run_async(request) for request in requests]
    session.close()
    for future, request in zip(futures, requests, strict=True):
        assert_right(future.result(0), request)


def test_without_openvino_auto_is_onnxruntime(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "is_installed", lambda name: name != "openvino")
    with Session.open(folder, "cpu") as session:
        assert session.backend_name.startswith("ONNX Runtime")


def test_openvino_that_is_missing_is_an_error_with_the_mend(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"trt-int8\[openvino\]"):
        Session.open(folder, "cpu", options=SessionOptions(runtime="openvino"))


@pytest.mark.parametrize(
    ("kwargs", "kind", "words"),
    [
        ({"device": "tpu"}, DeviceError, "tpu"),
        ({"workers": 0}, RequestError, "workers"),
        ({"workers": "2"}, RequestError, "workers is '2'"),
        ({"options": SessionOptions(shapes=((1, 65),))}, RequestError, "65"),
    ],
)
def test_wrong_options_are_refused(
    folder: Path, kwargs: dict[str, Any], kind: type[TrtInt8Error], words: str
) -> None:
    with pytest.raises(kind, match=words):
        Session.open(folder, **({"device": "cpu"} | kwargs))


@pytest.mark.parametrize(
    "options",
    [
        *({"threads": 0}, {"threads": "2"}, {"runtime": "tvm"}, {"graphs": 0}),
        *({"shapes": shapes} for shapes in (((0, 4),), (8, 128), [[1, 8]], ((1.5, 8),))),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        SessionOptions(**options)


def test_a_damaged_model_is_refused_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    damaged = bundle(tmp_path / "bundle")
    model = damaged / "model.int8.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError):
        Session.open(damaged, "cpu")


def test_the_fp16_twin_can_be_run(folder: Path) -> None:
    with Session.open(folder, "cpu", precision="fp16") as session:
        assert session.checked.model.name == "model.fp16.onnx"
        request = feeds(2, 5)
        assert_right(session.run(request), request)


def test_it_says_what_it_reads(folder: Path) -> None:
    with Session.open(folder, "cpu") as session:
        assert [str(one) for one in session.inputs] == [
            "input_ids int64 [batch 1.., sequence 1..64]",
            "attention_mask int64 [batch 1.., sequence 1..64]",
        ]
        assert [one.name for one in session.outputs] == ["tokens", "means"]
        assert session.notes == ()
    assert tiny_int8.MOST_TOKENS == 64
