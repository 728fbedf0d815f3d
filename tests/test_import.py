from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx")
SCRIPT = "import sys\nimport {}\nsys.exit([n for n in {} if n in sys.modules] or None)"


def run_import(what: str) -> subprocess.CompletedProcess[str]:
    """Import `what` in a fresh interpreter; exit code 1 if a heavy package came with it."""
    script = SCRIPT.format(what, HEAVY)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["trt_int8", "trt_int8.cli"])
def test_import_loads_nothing_heavy_and_prints_nothing(module: str) -> None:
    done = run_import(module)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_heavy_import_would_be_seen() -> None:
    done = run_import("trt_int8.cli, onnx")
    assert (done.returncode, done.stderr.strip()) == (1, "['onnx']")


def test_a_print_on_import_would_be_seen() -> None:
    assert run_import("trt_int8, this").stdout != ""
