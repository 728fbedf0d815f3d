"""Builds one engine in a process of its own: `python -m trt_int8.engine.worker`.

A crash inside TensorRT then is an error message, not the end of the whole job, and several
engines build at once. Protocol: one `BuildRequest` as a JSON line on standard input; events as
JSON lines on standard output: {"progress": 0..1}, then {"result": …} or {"error": …}. Standard
input closing, or SIGTERM, cancels the build.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from trt_int8.engine.adapter import Adapter, ProgressSink
from trt_int8.errors import TrtInt8Error
from trt_int8.files import write_whole
from trt_int8.spec.build import BuildRequest, BuildResult


class EventSink(ProgressSink):
    """Turns nested phases into one fraction and writes it when it moved by 1 %."""

    def __init__(self, stream: IO[str]) -> None:
        """Write events to `stream`."""
        self._stream = stream
        self._written = 0.0
        # Per open phase: its share of the whole, where it starts, and its number of steps.
        self._open: dict[str, tuple[float, float, int]] = {}
        self._done: dict[str, int] = {}

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        """A child phase fills the step its parent is at."""
        share, start = 1.0, 0.0
        if parent in self._open:
            parent_share, parent_start, parent_steps = self._open[parent]
            share = parent_share / max(parent_steps, 1)
            start = parent_start + share * self._done[parent]
        self._open[name], self._done[name] = (share, start, steps), 0

    def step(self, name: str, step: int) -> bool:
        """Note the step; False once cancelled."""
        if name in self._open:
            share, start, steps = self._open[name]
            self._done[name] = step + 1
            self._write(start + share * min((step + 1) / max(steps, 1), 1.0))
        return not self.cancelled

    def finish(self, name: str) -> None:
        """Forget the phase."""
        self._open.pop(name, None)

    def send(self, event: dict[str, Any]) -> None:
        """Write one event line."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def _write(self, fraction: float) -> None:
        if fraction - self._written >= 0.01:
            self._written = fraction
            self.send({"progress": round(fraction, 3)})


def run(request: BuildRequest, sink: EventSink) -> BuildResult:
    """Build and write engine and evidence; the engine appears under its name only when whole."""
    adapter = Adapter(request.flavour)
    start = time.perf_counter()
    plan, evidence = adapter.build(request, sink)
    seconds = time.perf_counter() - start
    Path(request.evidence_path).write_text(evidence, encoding="utf-8")
    target = Path(request.engine_path)
    write_whole(target, plan)
    return BuildResult(
        tensorrt_version=adapter.version,
        engine_bytes=target.stat().st_size,
        build_seconds=round(seconds, 3),
    )


def main() -> None:
    """Read the request, build, report."""
    # TensorRT's native code prints warnings to file descriptor 1: keep it for our events only.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sink = EventSink(events)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(sink, "cancelled", True))
    request = BuildRequest.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_cancel_at_eof, args=(sink,), daemon=True).start()
    try:
        result = run(request, sink)
        sink.send({"result": result.model_dump(mode="json")})
    except TrtInt8Error as error:
        sink.send(
            {
                "error": type(error).__name__,
                "came": error.came,
                "wanted": error.wanted,
                "todo": error.todo,
            }
        )
    except OSError as error:
        sink.send({"os_error": error.errno, "text": str(error)})


def _cancel_at_eof(sink: EventSink) -> None:
    sys.stdin.read()
    sink.cancelled = True


if __name__ == "__main__":
    main()
