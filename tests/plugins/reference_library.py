"""The plain C++ references of the kernels, compiled by g++ and called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_int8.plugins.kernel import kernel_folder

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def build(folder: Path, header: str, body: str) -> ctypes.CDLL:
    """A library of `body`, which includes `header` of the kernels' folder.

    The compiler's warnings are errors: the headers are shipped.
    """
    source, library = folder / "reference.cpp", folder / "reference.so"
    source.write_text(f'#include "{header}"\n{body}', encoding="utf-8")
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion")
    options = ("-std=c++17", "-O1", "-shared", "-fPIC", "-I", str(kernel_folder()))
    subprocess.run(["g++", *options, *warnings, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(array: NDArray[np.generic] | None) -> ctypes.c_void_p:
    """Address of an array's first element; null for None."""
    if array is None:
        return ctypes.c_void_p(None)
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
