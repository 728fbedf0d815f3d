"""Build engines in worker processes, several at once, with progress and cancel."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import IO, Any

from trt_int8 import errors
from trt_int8.errors import CancelledError, EngineError, TrtInt8Error
from trt_int8.spec.build import BuildRequest, BuildResult

Progress = Callable[[str, float], None]
_GRACE_SECONDS = 10.0
# Linux <sys/personality.h>; it holds per thread and is inherited by its child processes.
_QUERY_PERSONALITY, _ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000


def build_engines(
    requests: Mapping[str, BuildRequest], jobs: int, progress: Progress
) -> dict[str, BuildResult]:
    """Build all engines, at most `jobs` at once.

    Args:
        requests: by a label for progress and errors.
        jobs: number of processes.
        progress: called with (label, fraction in [0, 1]) from other threads.

    Raises:
        TrtInt8Error: of the first build that failed; the others are cancelled first.
        KeyboardInterrupt: Ctrl-C, after all workers have ended.
    """
    cancel = threading.Event()
    with ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool:
        futures = {
            label: pool.submit(_build, label, request, progress, cancel)
            for label, request in requests.items()
        }
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            cancel.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {label: future.result() for label, future in futures.items()}


def _build(
    label: str, request: BuildRequest, progress: Progress, cancel: threading.Event
) -> BuildResult:
    if cancel.is_set():
        raise CancelledError
    _fix_addresses()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        # A session of its own: Ctrl-C reaches the parent only, which then cancels in order.
        with subprocess.Popen(
            [sys.executable, "-m", "trt_int8.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        ) as process:
            watcher = threading.Thread(target=_stop_on_cancel, args=(process, cancel), daemon=True)
            watcher.start()
            last = _talk(process, request, lambda fraction: progress(label, fraction))
        stderr.seek(0)
        return _outcome(label, request, last, process.returncode, stderr)


def _fix_addresses() -> None:
    """Start this thread's child processes without address randomization (Linux).

    TensorRT-RTX lists some things in the order of their addresses, so that engines would differ
    in a few bytes from run to run. Where the call is not allowed, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        personality = ctypes.CDLL(None).personality
        current = personality(_QUERY_PERSONALITY)
        if current >= 0:
            personality(current | _ADDR_NO_RANDOMIZE)


def _talk(
    process: subprocess.Popen[str], request: BuildRequest, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Send the request, follow the events; the last one that is no progress, or {}."""
    assert process.stdin is not None
    assert process.stdout is not None
    last: dict[str, Any] = {}
    # Either error means that the worker died, before it read or while it wrote a line: its exit
    # code and stderr tell why.
    with contextlib.suppress(BrokenPipeError, json.JSONDecodeError):
        process.stdin.write(request.model_dump_json() + "\n")
        process.stdin.flush()
        for line in process.stdout:
            event = json.loads(line)
            if "progress" in event:
                progress(float(event["progress"]))
            else:
                last = event
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    return last


def _stop_on_cancel(process: subprocess.Popen[str], cancel: threading.Event) -> None:
    while process.poll() is None:
        if cancel.wait(0.1):
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return


def _outcome(
    label: str, request: BuildRequest, event: dict[str, Any], code: int, stderr: IO[str]
) -> BuildResult:
    if "result" in event:
        return BuildResult.model_validate(event["result"])
    if event.get("error") == "CancelledError":
        raise CancelledError
    if "error" in event:
        kind: type[TrtInt8Error] = getattr(errors, event["error"])
        raise kind(f"{label}: {event['came']}", wanted=event["wanted"], todo=event["todo"])
    if "os_error" in event:
        raise OSError(event["os_error"], event["text"], request.engine_path)
    lines = [line.strip() for line in stderr.read().splitlines() if line.strip()]
    output = lines[-1] if lines else "no output"
    raise EngineError(
        f"{label}: TensorRT's process ended with code {code} ({output})",
        wanted="it to build the engine",
        todo="try fewer --jobs (memory), then report this with --debug",
    )
