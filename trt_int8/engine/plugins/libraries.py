"""Plugins that others compiled: TensorRT's own, and those of shared libraries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trt_int8.errors import EngineError


def register_libraries(trt: Any, log: Any, libraries: Iterable[str]) -> None:
    """Make TensorRT's own plugins known, and those of shared libraries.

    Args:
        trt: the imported package.
        log: its logger, with a method `reason` that tells the last errors.
        libraries: their paths.

    Raises:
        EngineError: one cannot be loaded.
    """
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")
    for library in libraries:
        registry = trt.get_plugin_registry()
        if registry.load_library(library) is None:
            raise EngineError(
                f"plugin library {library!r} cannot be loaded"
                f" ({log.reason() or 'no reason in the log'})",
                wanted="a shared library with TensorRT plugin creators",
                todo="build it against this TensorRT version, and check it with ldd",
            )
