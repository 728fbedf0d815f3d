"""First-use import of heavy or optional packages."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from trt_int8.errors import MissingPackageError

_EXTRA_OF = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": None,
    "openvino": "openvino",
    "torch": None,
    "transformers": None,
    "pytorch_quantization": None,
    "ray": "ray",
    "ray.data": "ray",
    "pandas": "ray",
    "pyarrow": "ray",
    "pyarrow.parquet": "parquet",
    "nvidia.cuda_nvrtc": "plugins",
    "cuda.bindings.driver": "gpu",
}
_USE_OF = {
    "tensorrt": "this flavour",
    "openvino": "running bundles on a CPU with INT8 kernels",
    "ray": "--ray",
    "ray.data": "--ray",
    "pandas": "Ray Data",
    "pyarrow": "Ray Data",
    "pyarrow.parquet": "Parquet files",
    "tokenizers": "reading texts",
    "nvidia.cuda_nvrtc": "compiling the CUDA kernels of --plugins",
    "cuda.bindings.driver": "running engines on a GPU",
}


def is_installed(name: str) -> bool:
    """Tell whether `import name` would find a package, without importing it."""
    return importlib.util.find_spec(name) is not None


def load(name: str) -> ModuleType:
    """Import a package on first use.

    Raises:
        MissingPackageError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != name.split(".")[0]:
            raise
        extra = _EXTRA_OF.get(name)
        package = f"trt-int8[{extra}]" if extra else "trt-int8"
        raise MissingPackageError(
            f"the Python package {name!r} is not installed",
            wanted=f"it for {_USE_OF.get(name, 'the main job')}",
            todo=f"run: pip install '{package}'",
        ) from error
