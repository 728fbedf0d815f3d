"""Whether the TensorRT and the NumPy at hand can carry our plugins, asked before any build.

What is refused here would else end in a wrong engine or in a Python error inside TensorRT's
builder, of which it shows one line. All of it was found in the source of `tensorrt.plugin` and
reproduced with NVIDIA's bindings (`tests/kernels/test_front_end_guards.py`).
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from trt_int8 import optional
from trt_int8.errors import MissingPackageError, PluginError

# The first TensorRT whose plugin creator reads a scalar attribute as `f.data[0]` and not as
# `float(f.data)`, which NumPy refuses for arrays of one element from 2.4 on. TensorRT 11.0 has the
# old code; 11.1 to 11.3 were not looked at, so they count as old.
_READS_SCALARS_FROM: Final = (11, 4)
_NUMPY_BREAKS_FROM: Final = (2, 4)


def check_support(tensorrt: Any) -> Any:
    """TensorRT's plugin front end.

    Args:
        tensorrt: the imported package.

    Returns:
        The module `tensorrt.plugin`.

    Raises:
        PluginError: this TensorRT has no plugins with their own kernels, or this NumPy breaks them.
    """
    version = str(tensorrt.__version__)
    if not hasattr(tensorrt, "QuickPluginCreationRequest"):
        raise PluginError(
            f"{tensorrt.__name__} {version} cannot take kernels from Python",
            wanted="TensorRT 10.9 or newer (TensorRT-RTX has none of this)",
            todo="run: pip install 'trt-int8[tensorrt]' --upgrade, or pass --plugins off",
        )
    _check_numpy(version, np.__version__)
    try:
        return optional.load("tensorrt.plugin")
    except MissingPackageError as error:
        raise PluginError(
            f"TensorRT {version} is installed without its module tensorrt.plugin",
            wanted="the whole Python package of TensorRT",
            todo="run: pip install --force-reinstall tensorrt, or pass --plugins off",
        ) from error


def _check_numpy(tensorrt: str, numpy: str) -> None:
    if _version(tensorrt) >= _READS_SCALARS_FROM or _version(numpy) < _NUMPY_BREAKS_FROM:
        return
    wanted = ".".join(map(str, _NUMPY_BREAKS_FROM))
    newer = ".".join(map(str, _READS_SCALARS_FROM))
    raise PluginError(
        f"NumPy {numpy} breaks the plugin attributes of TensorRT {tensorrt}",
        wanted=f"NumPy older than {wanted}, or TensorRT {newer} or newer",
        todo=f"run: pip install 'numpy<{wanted}', or pass --plugins off",
    )


def _version(text: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) of a text that does not begin with them."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
