"""The checks before anything of a bundle is deserialised: an engine is code.

Only the files that will be used are read. The bytes that are handed over are hashed as they are,
so a file that is replaced after its check is never used.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_int8.engine.bundle_files import check_file, read_checked
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import BundleError, EngineTargetError
from trt_int8.runtime.engine_fit import (
    InstalledVersion,
    check_header,
    fit_notes,
    fitting_engine,
    installed_version,
)
from trt_int8.runtime.gpu.cards import Card
from trt_int8.runtime.libraries import read_library
from trt_int8.spec.build import Precision
from trt_int8.spec.manifest import Manifest


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle whose manifest, and whose files for one device, were checked.

    Attributes:
        folder: of the bundle, absolute.
        manifest: its table of contents.
        model: ONNX file of the precision; parse `read_model()`, not the file.
        engine: engine for the card; None for the CPU. Deserialise `read_engine()`, not the file.
        precision: of both.
        notes: what should be known before it runs, one sentence each.
    """

    folder: Path
    manifest: Manifest
    model: Path
    engine: Path | None
    precision: Precision
    notes: tuple[str, ...] = ()

    def read_model(self) -> bytes:
        """The ONNX file, its sha256 checked on these very bytes.

        Raises:
            BundleError: it was changed since the bundle was checked.
        """
        return self.read(self.model.relative_to(self.folder).as_posix())

    def read_engine(self) -> bytes:
        """The engine, its sha256 checked on these very bytes.

        Raises:
            BundleError: it was changed since the bundle was checked.
            EngineTargetError: the bundle was checked for the CPU, which runs no engine.
        """
        if self.engine is None:
            raise EngineTargetError(
                f"bundle {str(self.folder)!r} was checked for the CPU",
                wanted="a check for a card",
                todo="call check_gpu",
            )
        return self.read(self.engine.relative_to(self.folder).as_posix())

    def read(self, name: str) -> bytes:
        """Any file of the bundle, checked likewise.

        Raises:
            BundleError: as `read_checked` says.
        """
        return read_checked(self.folder, name, self.manifest.files)

    def read_library(self, name: str) -> bytes:
        """A plugin library that the manifest names, checked likewise.

        Raises:
            PluginLibraryError: it is missing, changed, or no library of this machine.
        """
        return read_library(self.folder, self.manifest, name)

    def names_below(self, folder: str) -> tuple[str, ...]:
        """Names of the listed files below a folder of the bundle, such as `tokenizer`."""
        return tuple(name for name in self.manifest.files if name.startswith(f"{folder}/"))


def check_cpu(bundle: Path, precision: Precision = "int8") -> CheckedBundle:
    """Check what a session on the CPU needs: the manifest and the ONNX file.

    Raises:
        BundleError: one of its classes per mismatch (`trt_int8.errors`).
    """
    manifest = load_manifest(bundle)
    folder, name = bundle.absolute(), model_name(precision)
    check_file(folder, name, manifest.files)
    notes = verdict_notes(manifest, precision)
    return CheckedBundle(folder, manifest, folder / name, None, precision, notes)


def check_gpu(
    bundle: Path,
    card: Card,
    precision: Precision = "int8",
    installed: InstalledVersion = installed_version,
) -> CheckedBundle:
    """Check what a session on a card needs: manifest, versions, plugins, ONNX file and engine.

    Args:
        bundle: its folder.
        card: where it is to run.
        precision: `int8`, or `fp16` for the twin.
        installed: gives the version of the TensorRT at hand.

    Raises:
        BundleError: one of its classes per mismatch (`trt_int8.errors`).
    """
    manifest = load_manifest(bundle)
    folder, name = bundle.absolute(), model_name(precision)
    engine = fitting_engine(manifest, card, precision, installed)
    for library in manifest.plugin_libraries:
        read_library(folder, manifest, library)
    # The ONNX file says what the engine reads and writes.
    check_file(folder, name, manifest.files)
    check_file(folder, engine.path, manifest.files)
    check_header(folder, manifest, engine)
    notes = (*verdict_notes(manifest, precision), *fit_notes(manifest, engine))
    return CheckedBundle(folder, manifest, folder / name, folder / engine.path, precision, notes)


@contextlib.contextmanager
def private_copy(checked: CheckedBundle, names: Iterable[str]) -> Iterator[Path]:
    """A folder of this user's alone with checked copies of files, for what only reads paths.

    Nothing that the manifest does not list is in it. It is removed at the end of the block; a
    library loaded from it stays loaded.

    Raises:
        BundleError: a file is not listed, missing or changed, or there is no room for its copy.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="trt-int8-")
    except OSError as error:
        raise _no_room(error) from error
    with folder as made:
        for name in names:
            place = Path(made, name)
            data = checked.read(name)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            except OSError as error:
                raise _no_room(error) from error
        yield Path(made)


def _no_room(error: OSError) -> BundleError:
    return BundleError(
        f"files of the bundle cannot be copied to a folder of their own ({error})",
        wanted="a folder for temporary files that can be written, with room for them",
        todo="set TMPDIR to one",
    )


def model_name(precision: Precision) -> str:
    """Name of the ONNX file of a precision inside a bundle."""
    return f"model.{precision}.onnx"


def verdict_notes(manifest: Manifest, precision: Precision) -> tuple[str, ...]:
    """What the build advised against, and is done nevertheless."""
    if precision == "fp16" or manifest.verdict.recommended == "int8":
        return ()
    why = "; ".join(manifest.verdict.failures) or "its policy was not met"
    return (f"the build recommends fp16 instead of int8 ({why}): pass precision='fp16'",)
