"""`Session.open` on damaged bundles: refused before anything of them is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.damage import DAMAGE, RecordedModule
from tests.support.runtime_bundle import FILES, T4, edit, flip, make, swap, vouch
from trt_int8 import errors
from trt_int8.errors import BundleError
from trt_int8.runtime import opening
from trt_int8.runtime.checks import check_cpu
from trt_int8.runtime.session import Session
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME
from trt_int8.spec.plugins import PluginEntry

ENGINE, MODEL = "sm75/int8.engine", "model.int8.onnx"
LOADERS = (
    *("read_signature", "cpu_graph", "open_engine"),
    *("OpenVinoBackend", "OnnxRuntimeBackend"),
)


class LoadedError(Exception):
    """Something of the bundle went to a loader."""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What went to anything that parses, compiles or deserialises; a card is there."""
    seen: list[object] = []

    def load(first: object, *_: object, **__: object) -> None:
        seen.append(first)
        raise LoadedError

    for name in LOADERS:
        monkeypatch.setattr(opening, name, load)
    monkeypatch.setattr(opening, "find_card", lambda _index: T4)
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, RecordedModule(name))
    return seen


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def refuse(kind: type[BundleError], loaded: list[object], bundle: Path, device: str) -> None:
    with pytest.raises(kind) as caught:
        Session.open(bundle, device)
    assert type(caught.value) is kind
    assert loaded == []
    asked = [name for name in sys.modules["tensorrt_rtx"].touched if name != "__version__"]
    assert asked == []


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_sound_bundle_reaches_the_loaders_as_the_bytes_that_were_checked(
    bundle: Path, loaded: list[object], device: str
) -> None:
    with pytest.raises(LoadedError):
        Session.open(bundle, device)
    assert loaded == [FILES[MODEL]]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("device", "name"), [("cpu", MODEL), ("cuda:0", ENGINE)])
def test_a_damaged_file_is_refused(
    bundle: Path, loaded: list[object], device: str, name: str, damage: str
) -> None:
    change, kind = DAMAGE[damage]
    change(bundle / name)
    refuse(kind, loaded, bundle, device)


@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda:0"])
def test_a_damaged_manifest_is_refused_on_every_device(
    bundle: Path, loaded: list[object], device: str, damage: str
) -> None:
    kinds = {"gone": errors.NoBundleError}
    DAMAGE[damage][0](bundle / MANIFEST_NAME)
    refuse(kinds.get(damage, errors.ManifestError), loaded, bundle, device)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda b: swap(b / ENGINE, b / "sm80/int8.engine"), errors.SwappedFileError),
        (lambda b: vouch(b, tensorrt_version="1.6.0.1"), errors.EngineVersionError),
        (lambda b: vouch(b, engines=()), errors.EngineTargetError),
        (lambda b: vouch(b, plugin_libraries={"a.so": "0" * 64}), errors.PluginLibraryError),
        (lambda b: edit(b, lambda m: m["engines"][0].update(sm=89)), errors.EngineTargetError),
        (
            lambda b: vouch(
                b,
                flavour=Flavour.TENSORRT,
                plugins=(PluginEntry(id="x::y", version="1", nodes=1, source_sha256=""),),
            ),
            errors.PluginMissingError,
        ),
    ],
)
def test_what_does_not_fit_the_card_is_refused(
    bundle: Path, loaded: list[object], change: Callable[[Path], Any], kind: type[BundleError]
) -> None:
    change(bundle)
    refuse(kind, loaded, bundle, "cuda:0")


def test_a_file_replaced_between_its_check_and_its_use_is_refused(
    bundle: Path, loaded: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_then_replace(*arguments: Any) -> Any:
        checked = check_cpu(*arguments)
        flip(bundle / MODEL, 5)
        return checked

    monkeypatch.setattr(opening, "check_cpu", check_then_replace)
    refuse(errors.ChangedFileError, loaded, bundle, "cpu")
