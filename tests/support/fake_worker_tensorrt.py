"""A `tensorrt_rtx` for worker processes that behaves as told, found first on `sys.path`."""

from __future__ import annotations

from pathlib import Path

import pytest

_HEAD = """
import os, signal, sys, threading
from tests.support.fake_tensorrt import FakeTensorRT, Severity
trt = FakeTensorRT(rtx=True)
trt.log_on_build = [(Severity.VERBOSE, "Layers:\\nName: a")]
def during(monitor):
    monitor.phase_start("all", None, 100)
"""
BEHAVIOURS = {
    # Goes on until the monitor answers False.
    "endless": """
    while monitor.step_complete("all", 50):
        threading.Event().wait(0.005)
    return False
""",
    "killed": """
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "abort": """
    os.write(1, b"native chatter on descriptor 1\\n")
    os.write(2, b"native last words\\n\\n")
    os._exit(3)
""",
    # Dies while it writes an event.
    "half a line": """
    sink = next(c.cell_contents for c in monitor.step_complete.__closure__)
    sink._stream.write('{"progress": 0.')
    sink._stream.flush()
    os._exit(4)
""",
    "exception": """
    raise RuntimeError("bad binding")
""",
    "chatty": """
    os.write(1, b"native chatter on descriptor 1\\n")
    return all(monitor.step_complete("all", step) for step in range(100))
""",
}
_TAIL = """
trt.during_build = during
sys.modules[__name__] = trt
"""


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, behaviour: str) -> None:
    """Make workers import a `tensorrt_rtx` with this behaviour."""
    folder.mkdir()
    text = _HEAD + BEHAVIOURS[behaviour] + _TAIL
    (folder / "tensorrt_rtx.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
