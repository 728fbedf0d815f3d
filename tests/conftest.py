from __future__ import annotations

import shutil
from pathlib import Path

import hypothesis
import pytest

from tests.support.tensorrt_bindings import build_stub

# A test says whether an answer is right, not whether a busy machine gave it soon.
hypothesis.settings.register_profile("no clock", deadline=None)
hypothesis.settings.load_profile("no clock")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for TensorRT's libraries, to load its genuine Python bindings with."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("needs a C compiler (gcc or cc) to build the stand-in for TensorRT's libraries")
    folder = tmp_path_factory.mktemp("stubs")
    build_stub(folder)
    return folder
