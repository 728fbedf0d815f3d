"""What an engine's nodes call beside TensorRT's own layers: plugin libraries, and our plugins."""

from __future__ import annotations

import functools
import tempfile
import threading
from pathlib import Path
from typing import Any

from trt_int8.engine.plugins import register_plugins
from trt_int8.engine.plugins.libraries import register_libraries
from trt_int8.errors import PluginLibraryError
from trt_int8.runtime.checks import CheckedBundle
from trt_int8.spec.build import Flavour


def load_plugins(trt: Any, log: Any, checked: CheckedBundle) -> None:
    """Make all plugins of a bundle known to TensorRT, before its engine is deserialised.

    The CUDA context of the session's card is current: our plugins are checked for that card.

    A library stays loaded until the process ends. TensorRT refuses one whose plugins it has
    ("will fail and return None if any of the plugins are already registered", Python API,
    `IPluginRegistry.load_library`), so each is loaded once, whichever bundles bring it.

    Args:
        trt: the imported package of the bundle's flavour.
        log: its logger.
        checked: the bundle.

    Raises:
        EngineError: a library cannot be loaded.
        PluginLibraryError: a library changed since it was checked, or there is no folder to load
            it from.
        PluginError: this TensorRT or this card cannot carry our plugins.
    """
    manifest, there = checked.manifest, _loaded_into(trt)
    may_call_ours = manifest.flavour is Flavour.TENSORRT and checked.precision == "int8"
    with there.lock:
        register_libraries(trt, log, ())
        _load_new(trt, log, checked, there.digests)
        if manifest.plugins and may_call_ours:
            register_plugins(trt)


def _load_new(trt: Any, log: Any, checked: CheckedBundle, known: set[str]) -> None:
    libraries = checked.manifest.plugin_libraries
    new = {name: digest for name, digest in libraries.items() if digest not in known}
    if not new:
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="trt-int8-")
    except OSError as error:
        raise PluginLibraryError(
            f"there is no folder to load the plugin libraries from ({error})",
            wanted="a folder for temporary files, not mounted noexec",
            todo="set TMPDIR to one",
        ) from error
    # A loaded library stays when its file goes, so nobody can change the file after its check.
    with made as folder:
        for name in new:  # all of them first: one may need another beside it
            Path(folder, name).write_bytes(checked.read_library(name))
        for name, digest in new.items():
            register_libraries(trt, log, [str(Path(folder, name))])
            known.add(digest)


class _Loaded:
    """Hashes of the libraries that a TensorRT has loaded; the lock is held while it is asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.digests: set[str] = set()


@functools.cache
def _loaded_into(_trt: Any) -> _Loaded:
    # As TensorRT's registry of plugins: one for the process.
    return _Loaded()
