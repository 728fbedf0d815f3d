from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import fake_worker_tensorrt
from tests.support.attention_block import request_for
from tests.support.fake_tensorrt import FakeTensorRT, Severity
from trt_int8.engine.worker import EventSink, run
from trt_int8.errors import EngineError
from trt_int8.spec.build import BuildRequest


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    trt = FakeTensorRT(rtx=True)
    trt.log_on_build = [(Severity.VERBOSE, "Layers:\nName: a")]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    return trt


def request(folder: Path) -> BuildRequest:
    return request_for(folder / "m.onnx", 75)


def events(stream: io.StringIO) -> list[float]:
    return [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]


def test_a_result_tells_version_and_size_and_the_files_are_there(
    fake: FakeTensorRT, tmp_path: Path
) -> None:
    wanted = request(tmp_path)
    result = run(wanted, EventSink(io.StringIO()))
    assert (result.tensorrt_version, result.engine_bytes) == ("10.99", 4)
    assert Path(wanted.engine_path).read_bytes() == b"plan"
    assert Path(wanted.evidence_path).read_text(encoding="utf-8") == "Layers:\nName: a"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_build_writes_nothing(fake: FakeTensorRT, tmp_path: Path) -> None:
    fake.plan = None
    with pytest.raises(EngineError, match="built no engine"):
        run(request(tmp_path), EventSink(io.StringIO()))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_written_engine(
    fake: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(tmp_path)
    genuine = Path.replace

    def full(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return genuine(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run(wanted, EventSink(io.StringIO()))
    assert [p.name for p in tmp_path.iterdir() if ".engine" in p.name] == []


def test_nested_phases_make_one_growing_fraction() -> None:
    stream = io.StringIO()
    sink = EventSink(stream)
    sink.phase("all", None, 2)
    sink.phase("first", "all", 4)
    answers = [sink.step("first", 0), sink.step("first", 1)]
    sink.finish("first")
    sink.step("all", 0)
    sink.phase("second", "all", 1)
    sink.step("second", 0)
    assert events(stream) == [0.125, 0.25, 0.5, 1.0]
    assert answers == [True, True]


def test_steps_below_one_percent_write_no_event() -> None:
    stream = io.StringIO()
    sink = EventSink(stream)
    sink.phase("all", None, 1000)
    for step in range(1000):
        sink.step("all", step)
    assert 90 <= len(events(stream)) <= 101


def test_a_cancelled_sink_answers_false() -> None:
    sink = EventSink(io.StringIO())
    sink.phase("all", None, 3)
    sink.cancelled = True
    assert sink.step("all", 0) is False
    assert sink.step("never opened", 0) is False


def walk(sink: EventSink, steps: list[int], level: int = 0) -> None:
    """Phases inside each other: each step of a phase holds the whole phase of the next level."""
    name, parent = f"level {level}", f"level {level - 1}" if level else None
    sink.phase(name, parent, steps[level])
    for step in range(steps[level]):
        if level + 1 < len(steps):
            walk(sink, steps, level + 1)
        sink.step(name, step)
    sink.finish(name)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=40)
def test_however_phases_are_nested_the_fraction_grows_to_1(steps: list[int]) -> None:
    stream = io.StringIO()
    walk(EventSink(stream), steps)
    fractions = events(stream)
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0, abs=0.011)
    assert max(fractions) <= 1.0


def worker(environment: dict[str, str], text: str) -> subprocess.CompletedProcess[str]:
    """Run a worker whose standard input ends after `text`."""
    return subprocess.run(
        [sys.executable, "-m", "trt_int8.engine.worker"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )


def environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(p for p in sys.path if p)}


def last_event(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout.splitlines()[-1])


def test_a_worker_whose_parent_died_cancels_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker_tensorrt.install(monkeypatch, tmp_path / "fake", "endless")
    done = worker(environment(), request(tmp_path).model_dump_json() + "\n")
    assert last_event(done)["error"] == "CancelledError"
    assert [path.name for path in tmp_path.iterdir()] == ["fake"]


def test_a_missing_model_is_reported_as_an_event_with_its_three_parts(tmp_path: Path) -> None:
    done = worker(environment(), request(tmp_path).model_dump_json() + "\n")
    event = last_event(done)
    assert event["error"] == "EngineError"
    assert "cannot parse 'm.onnx'" in event["came"]
    assert event["wanted"]
    assert event["todo"]
    assert done.returncode == 0


def test_a_request_that_is_no_json_ends_the_worker_with_an_error() -> None:
    done = worker(environment(), "hello\n")
    assert done.returncode == 1
    assert "ValidationError" in done.stderr
