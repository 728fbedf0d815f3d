from __future__ import annotations

import errno
import subprocess
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support import fake_worker_tensorrt
from tests.support.attention_block import request_for, saved_request
from trt_int8.engine import build as build_module
from trt_int8.engine import selftest
from trt_int8.engine.build import build_engines
from trt_int8.errors import CancelledError, EngineError, TargetError
from trt_int8.spec.build import BuildRequest


def ignore(label: str, fraction: float) -> None:
    """No progress bar."""


def plain_request(folder: Path, name: str = "m", sm: int = 75) -> BuildRequest:
    """For a fake TensorRT, which reads no model."""
    path = folder / "work" / f"{name}.onnx"
    path.parent.mkdir(exist_ok=True)
    return request_for(path, sm)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".onnx")


def test_two_builds_of_one_model_give_identical_engines(tmp_path: Path) -> None:
    model = selftest.positive_control()
    requests = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        requests[name] = saved_request(tmp_path / name, model)
    results = build_engines(requests, 2, ignore)
    engines = [Path(request.engine_path).read_bytes() for request in requests.values()]
    assert engines[0] == engines[1]
    assert [result.engine_bytes for result in results.values()] == [len(e) for e in engines]
    assert list(results) == ["first", "second"]


def test_engine_and_evidence_are_all_that_a_build_leaves(tmp_path: Path) -> None:
    build_engines({"a": saved_request(tmp_path, selftest.positive_control())}, 1, ignore)
    assert leftovers(tmp_path) == ["block.sm75.engine", "block.sm75.layers"]


def test_progress_grows_from_near_0_to_1(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    request = saved_request(tmp_path, selftest.positive_control())
    build_engines({"a": request}, 1, lambda label, fraction: seen.append((label, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert {label for label, _ in seen} == {"a"}
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


def test_a_corrupt_onnx_file_is_an_engine_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\xff" * 99)
    with pytest.raises(EngineError, match=r"sm75 int8: TensorRT cannot parse 'bad.onnx'"):
        build_engines({"sm75 int8": request_for(path, 75)}, 1, ignore)
    assert leftovers(tmp_path) == []


def test_a_node_that_tensorrt_cannot_parse_is_named(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 16, 64])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("NoSuchOp", ["x"], ["y"], name="strange")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out]))
    with pytest.raises(EngineError, match=r"cannot parse 'block.onnx' \(strange \(NoSuchOp\): "):
        build_engines({"a": saved_request(tmp_path, model)}, 1, ignore)


def test_a_target_that_is_not_there_is_a_target_error(tmp_path: Path) -> None:
    request = saved_request(tmp_path, selftest.positive_control(), sm=90)
    with pytest.raises(TargetError, match=r"sm90: TensorRT-RTX .* has no target SM90"):
        build_engines({"sm90": request}, 1, ignore)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("behaviour", "match"),
    [
        ("killed", r"a: TensorRT's process ended with code -9"),
        ("abort", r"a: TensorRT's process ended with code 3 \(native last words\)"),
        ("half a line", r"ended with code 4 \(no output\)"),
        ("exception", r"ended with code 1 \(RuntimeError: bad binding\)"),
    ],
)
def test_a_worker_that_dies_is_an_engine_error_and_leaves_nothing(
    behaviour: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", behaviour)
    with pytest.raises(EngineError, match=match):
        build_engines({"a": plain_request(tmp_path)}, 1, ignore)
    assert leftovers(tmp_path / "work") == []


class _DeadAtOnce(subprocess.Popen[str]):
    """A process that has ended before anything is written to it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(["false"], *args[1:], **options)
        self.wait()


def test_a_worker_that_dies_before_it_reads_is_an_engine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _DeadAtOnce)
    with pytest.raises(EngineError, match=r"ended with code 1 \(no output\)"):
        build_engines({"a": plain_request(tmp_path)}, 1, ignore)


def test_native_chatter_does_not_disturb_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "chatty")
    seen: list[float] = []
    request = plain_request(tmp_path)
    build_engines({"a": request}, 1, lambda label, fraction: seen.append(fraction))
    assert Path(request.engine_path).read_bytes() == b"plan"
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1, abs=0.02)


def test_cancelling_a_running_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "endless")
    cancel = threading.Event()
    request = plain_request(tmp_path)
    with pytest.raises(CancelledError, match="interrupted"):
        build_module._build("a", request, lambda *_: cancel.set(), cancel)
    assert leftovers(tmp_path / "work") == []


def test_a_build_that_was_cancelled_before_its_turn_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        build_module._build("a", plain_request(tmp_path), ignore, cancel)


def test_ctrl_c_ends_all_workers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "endless")
    started = threading.Event()

    def interrupted(*_: object, **__: object) -> None:
        started.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "wait", interrupted)
    requests = {name: plain_request(tmp_path, name) for name in ("a", "b")}
    with pytest.raises(KeyboardInterrupt):
        build_engines(requests, 1, lambda *_: started.set())
    assert leftovers(tmp_path / "work") == []


def test_the_first_failure_cancels_the_other_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "endless")
    requests = {"good": plain_request(tmp_path), "bad": plain_request(tmp_path, "bad", sm=90)}
    with pytest.raises(TargetError, match=r"bad: .* no target SM90"):
        build_engines(requests, 2, ignore)
    assert leftovers(tmp_path / "work") == []


def test_an_engine_that_cannot_be_written_is_an_os_error_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "chatty")
    request = plain_request(tmp_path).model_copy(update={"engine_path": str(tmp_path / "no/e")})
    with pytest.raises(OSError, match="No such file") as caught:
        build_engines({"a": request}, 1, ignore)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == request.engine_path


def test_nothing_to_build_gives_nothing() -> None:
    assert build_engines({}, 0, ignore) == {}
