"""The CUDA tools of the development wheels, and marks for tests that need them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.kernels.host_compiler import compiler
from trt_int8.plugins.toolchain import NVRTC_PACKAGE


def ptxas() -> Path | None:
    """The assembler of nvidia-cuda-nvcc-cu12, or None."""
    return _tool("nvidia.cuda_nvcc", "ptxas")


def disassembler(name: str) -> Path | None:
    """`cuobjdump` or `nvdisasm` of its wheel, or None."""
    return _tool("nvidia.cu13", name)


def _tool(package: str, name: str) -> Path | None:
    for folder in _places(package):
        path = Path(folder) / "bin" / name
        if path.is_file():
            return path
    return None


def _places(package: str) -> list[str]:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return []
    return list(spec.submodule_search_locations or ()) if spec else []


needs_gxx = pytest.mark.skipif(compiler() is None, reason="needs g++ 12 or later")
needs_nvrtc = pytest.mark.skipif(
    not _places(NVRTC_PACKAGE), reason="needs NVRTC: pip install 'trt-int8[plugins]'"
)
needs_ptxas = pytest.mark.skipif(
    ptxas() is None, reason="needs ptxas: pip install nvidia-cuda-nvcc-cu12"
)
needs_disassembler = pytest.mark.skipif(
    disassembler("cuobjdump") is None or disassembler("nvdisasm") is None,
    reason="needs cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm",
)
every_layer = pytest.mark.parametrize(
    "layer",
    [
        pytest.param("emulator", marks=needs_gxx),
        pytest.param("interpreter", marks=[needs_gxx, needs_nvrtc]),
    ],
)
