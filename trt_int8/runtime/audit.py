"""Everything that can be said of a bundle without loading it: each file, each device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trt_int8 import optional
from trt_int8.engine.bundle import PLUGIN_FOLDER
from trt_int8.engine.bundle_files import Advance, check_file
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import (
    BundleError,
    ChangedFileError,
    DeviceError,
    ManifestError,
    MissingFileError,
    MissingPackageError,
    PluginLibraryError,
    SwappedFileError,
    TrtInt8Error,
    TruncatedFileError,
    UnreadableFileError,
    UnsafePathError,
)
from trt_int8.runtime.checks import model_name, verdict_notes
from trt_int8.runtime.device import parse_device
from trt_int8.runtime.engine_fit import (
    InstalledVersion,
    check_header,
    fit_notes,
    fitting_engine,
    installed_version,
)
from trt_int8.runtime.gpu.cards import Card, cards
from trt_int8.runtime.libraries import read_library
from trt_int8.spec.build import Precision
from trt_int8.spec.bundle_report import BundleReport, DeviceReport, FileReport, FileState
from trt_int8.spec.manifest import MANIFEST_NAME, Manifest

_STATE_OF: dict[type[TrtInt8Error], FileState] = {
    MissingFileError: "missing",
    TruncatedFileError: "cut off",
    SwappedFileError: "swapped",
    ChangedFileError: "changed",
    UnreadableFileError: "unreadable",
    UnsafePathError: "unsafe",
    ManifestError: "contradicts",
    PluginLibraryError: "wrong library",
}
# In the order of preference.
_CPU_PACKAGES = ("openvino", "onnxruntime")


@dataclass(frozen=True)
class Machine:
    """What a check asks of the machine; tests put other answers here."""

    cards: Callable[[], tuple[Card, ...]] = cards
    installed: InstalledVersion = installed_version
    has_package: Callable[[str], bool] = optional.is_installed


@dataclass(frozen=True)
class Audit:
    """A report, and the errors behind it by file or device, in its order."""

    report: BundleReport
    file_errors: dict[str, TrtInt8Error]
    device_errors: dict[str, TrtInt8Error]

    def raise_first(self, device: str | None = None) -> None:
        """Raise what is wrong with the files, or else with a device.

        Args:
            device: `cpu`, `cuda:N`, or `auto` for any; None for no device.

        Raises:
            BundleError: the first file that is not whole, or why the device cannot run the bundle.
            DeviceError: there is no such device.
            MissingPackageError: nothing is installed that runs the bundle on the CPU.
        """
        for error in self.file_errors.values():
            raise error
        if device is None:
            return
        asked = parse_device(device)
        if asked is None:
            if all(each.device in self.device_errors for each in self.report.devices):
                raise next(iter(self.device_errors.values()))
            return
        known = [each.device for each in self.report.devices]
        if str(asked) not in known:
            raise DeviceError(
                f"this machine has no device {str(asked)!r}",
                wanted=f"one of {', '.join(known)}",
                todo="check nvidia-smi, CUDA_VISIBLE_DEVICES, and that cuda-python is installed",
            )
        if str(asked) in self.device_errors:
            raise self.device_errors[str(asked)]


def audit(
    bundle: Path,
    precision: Precision = "int8",
    machine: Machine | None = None,
    advance: Callable[[Manifest], Advance] | None = None,
) -> Audit:
    """Check every file of a bundle, and whether each device of this machine can run it.

    Args:
        bundle: its folder.
        precision: of what is to run.
        machine: other answers in tests.
        advance: given the manifest, a callable that is told how many bytes were newly read.

    Raises:
        BundleError: there is no manifest, or it cannot be read.
    """
    machine = machine or Machine()
    manifest = load_manifest(bundle)
    errors = _file_errors(bundle, manifest, advance(manifest) if advance is not None else None)
    files = [_file_report(name, entry.size_bytes, errors) for name, entry in manifest.files.items()]
    files += [_file_report(name, None, errors) for name in errors if name not in manifest.files]
    files += _unlisted(bundle, {file.name for file in files} | set(_libraries(manifest)))
    run = _Run(bundle, manifest, precision, machine, errors)
    found = [run.on_cpu(), *(run.on_card(card) for card in machine.cards())]
    report = BundleReport(
        path=_shown(bundle),
        model=manifest.model,
        flavour=manifest.flavour.value,
        tensorrt_version=manifest.tensorrt_version,
        precision=precision,
        whole=not errors,
        files=tuple(files),
        devices=tuple(device for device, _ in found),
    )
    return Audit(report, errors, {one.device: why for one, why in found if why is not None})


def _libraries(manifest: Manifest) -> dict[str, str]:
    """Names of plugin libraries by their place in the bundle."""
    return {f"{PLUGIN_FOLDER}/{name}": name for name in manifest.plugin_libraries}


def _file_errors(
    bundle: Path, manifest: Manifest, advance: Advance | None
) -> dict[str, TrtInt8Error]:
    libraries = _libraries(manifest)
    engines = {engine.path: engine for engine in manifest.engines}
    errors: dict[str, TrtInt8Error] = {}
    for name in [*manifest.files, *(place for place in libraries if place not in manifest.files)]:
        try:
            if name in manifest.files:
                check_file(bundle, name, manifest.files, advance)
            if name in libraries:
                read_library(bundle, manifest, libraries[name])
            if name in engines:
                check_header(bundle, manifest, engines[name])
        except BundleError as error:
            errors[name] = error
    return errors


def _file_report(name: str, size: int | None, errors: dict[str, TrtInt8Error]) -> FileReport:
    error = errors.get(name)
    if error is None:
        return FileReport(name=name, size_bytes=size, state="whole")
    state = _STATE_OF.get(type(error), "changed")
    return FileReport(name=name, size_bytes=size, state=state, problem=str(error))


def _unlisted(bundle: Path, known: set[str]) -> list[FileReport]:
    found = []
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if name == MANIFEST_NAME or name in known:
            continue
        try:
            if path.is_dir():
                continue
            size = path.lstat().st_size
        except OSError:  # it is gone, or its folder may not be looked into
            size = None
        found.append(FileReport(name=_shown(name), size_bytes=size, state="not listed"))
    return found


def _shown(path: str | Path) -> str:
    """A path as text that can be printed: names on Linux are bytes, not always of UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


@dataclass(frozen=True)
class _Run:
    """Who can run a bundle whose files were looked at."""

    bundle: Path
    manifest: Manifest
    precision: Precision
    machine: Machine
    errors: dict[str, TrtInt8Error]

    def on_cpu(self) -> tuple[DeviceReport, TrtInt8Error | None]:
        model = model_name(self.precision)
        packages = [name for name in _CPU_PACKAGES if self.machine.has_package(name)]
        try:
            if not packages:
                raise MissingPackageError(
                    f"neither {' nor '.join(_CPU_PACKAGES)} is installed",
                    wanted="one that runs the model on the CPU",
                    todo="run: pip install openvino",
                )
            self._need(model)
        except TrtInt8Error as error:
            return _cannot("cpu", " ".join(packages[:1]), error)
        notes = verdict_notes(self.manifest, self.precision)
        return DeviceReport(device="cpu", name=packages[0], runs=model, notes=notes), None

    def on_card(self, card: Card) -> tuple[DeviceReport, TrtInt8Error | None]:
        device, name = f"cuda:{card.index}", f"{card.name}, SM{card.sm}"
        try:
            engine = fitting_engine(self.manifest, card, self.precision, self.machine.installed)
            self._need(*_libraries(self.manifest), model_name(self.precision), engine.path)
        except BundleError as error:
            return _cannot(device, name, error)
        notes = verdict_notes(self.manifest, self.precision) + fit_notes(self.manifest, engine)
        return DeviceReport(device=device, name=name, runs=engine.path, notes=notes), None

    def _need(self, *names: str) -> None:
        for name in names:
            if name in self.errors:
                raise self.errors[name]
            if name not in self.manifest.files and name not in _libraries(self.manifest):
                check_file(self.bundle, name, self.manifest.files)  # says that it is not listed


def _cannot(device: str, name: str, error: TrtInt8Error) -> tuple[DeviceReport, TrtInt8Error]:
    return DeviceReport(device=device, name=name, runs=None, problem=str(error)), error
