"""Damaged bundles, each refused before anything is deserialised."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support.damage import DAMAGE, RecordedModule, to_link
from tests.support.runtime_bundle import (
    A100,
    FILES,
    T4,
    edit,
    flip,
    library,
    make,
    sha256,
    swap,
    vouch,
)
from trt_int8 import errors
from trt_int8.errors import BundleError
from trt_int8.runtime.checks import CheckedBundle, check_cpu, check_gpu
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME
from trt_int8.spec.plugins import PluginEntry

ENGINE, MODEL = "sm75/int8.engine", "model.int8.onnx"


class Loader:
    """What would deserialise: notes the bytes it gets."""

    def __init__(self, *modules: RecordedModule) -> None:
        self.modules = modules
        self.calls: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        self.calls.append(data)

    @property
    def touched(self) -> set[str]:
        """What was asked of TensorRT beside its version."""
        return {name for module in self.modules for name in module.touched} - {"__version__"}


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    modules = [RecordedModule(name) for name in ("tensorrt_rtx", "tensorrt")]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    made = Loader(*modules)
    for name in ("load", "load_model", "load_from_string", "load_model_from_string"):
        monkeypatch.setattr(onnx, name, lambda data, *_, **__: made(data))
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def open_on_card(bundle: Path, loader: Loader) -> CheckedBundle:
    """What a session does."""
    checked = check_gpu(bundle, T4)
    loader(checked.read_engine())
    return checked


def open_on_cpu(bundle: Path, loader: Loader) -> CheckedBundle:
    checked = check_cpu(bundle)
    loader(checked.read_model())
    return checked


def refused(
    kind: type[BundleError], loader: Loader, opening: Callable[[Path, Loader], object], path: Path
) -> str:
    with pytest.raises(kind) as caught:
        opening(path, loader)
    assert type(caught.value) is kind
    assert loader.calls == []
    assert loader.touched == set()
    return str(caught.value)


def test_a_sound_bundle_reaches_the_loader_with_the_very_bytes(
    bundle: Path, loader: Loader
) -> None:
    open_on_card(bundle, loader)
    open_on_cpu(bundle, loader)
    assert loader.calls == [FILES[ENGINE], FILES[MODEL]]
    assert loader.modules[0].touched == ["__version__"]


def test_a_loader_that_was_called_would_be_seen(loader: Loader) -> None:
    onnx.load(b"x")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        sys.modules["tensorrt_rtx"].Runtime  # noqa: B018
    assert loader.calls == [b"x"]
    assert loader.touched == {"Runtime"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [ENGINE, MODEL])
def test_a_damaged_file_is_refused_for_a_card(
    bundle: Path, loader: Loader, name: str, damage: str
) -> None:
    change, kind = DAMAGE[damage]
    change(bundle / name)
    assert repr(name) in refused(kind, loader, open_on_card, bundle)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_for_the_cpu(bundle: Path, loader: Loader, damage: str) -> None:
    change, kind = DAMAGE[damage]
    change(bundle / MODEL)
    assert repr(MODEL) in refused(kind, loader, open_on_cpu, bundle)


def test_an_engine_outside_is_refused_even_if_it_is_the_right_one(
    bundle: Path, loader: Loader
) -> None:
    to_link("../../outside")(bundle / ENGINE)
    assert (bundle / ENGINE).read_bytes() == FILES[ENGINE]
    refused(errors.UnsafePathError, loader, open_on_card, bundle)


@pytest.mark.parametrize("other", ["sm75/fp16.engine", "sm80/int8.engine", MODEL])
def test_two_swapped_files_are_refused_by_name(bundle: Path, loader: Loader, other: str) -> None:
    swap(bundle / ENGINE, bundle / other)
    message = refused(errors.SwappedFileError, loader, open_on_card, bundle)
    assert "has the content of" in message
    assert ENGINE in message
    assert other in message


def test_a_file_of_another_bundle_is_refused(tmp_path: Path, loader: Loader) -> None:
    first, second = make(tmp_path / "one"), make(tmp_path / "two")
    for name in (ENGINE, MODEL):
        flip(second / name, -2)
    vouch(second)
    shutil.copy(second / ENGINE, first / ENGINE)
    refused(errors.ChangedFileError, loader, open_on_card, first)


def test_the_manifest_of_another_bundle_is_refused(tmp_path: Path, loader: Loader) -> None:
    first, second = make(tmp_path / "one"), make(tmp_path / "two")
    for name in (ENGINE, MODEL):
        flip(second / name, -2)
    vouch(second)
    shutil.copy(second / MANIFEST_NAME, first / MANIFEST_NAME)
    message = refused(errors.ChangedFileError, loader, open_on_cpu, first)
    assert "a manifest of another bundle gives this too" in message


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: m.pop("engines"), errors.ManifestError),
        (lambda m: m["engines"].clear(), errors.EngineTargetError),
        (lambda m: m["files"].pop(ENGINE), errors.ManifestError),
        (lambda m: m["files"].pop(MODEL), errors.MissingFileError),
        (lambda m: m["files"][ENGINE].update(sha256="0" * 64), errors.ChangedFileError),
        (lambda m: m["files"][ENGINE].update(size_bytes=5), errors.ChangedFileError),
        (lambda m: m["files"][ENGINE].update(size_bytes=5000), errors.TruncatedFileError),
        (lambda m: m["engines"][0].update(path="../int8.engine"), errors.UnsafePathError),
        (lambda m: m["engines"][0].update(path=MODEL), errors.ManifestError),
        (lambda m: m["engines"][0].update(sm=80), errors.ManifestError),
        (lambda m: m["engines"][0].update(precision="int4"), errors.ManifestError),
        (lambda m: m.update(tensorrt_version="1.6.0.5"), errors.EngineVersionError),
        (lambda m: m.update(flavour="tensorrt"), errors.EngineVersionError),
        (lambda m: m.update(flavour="cuda"), errors.ManifestError),
        (lambda m: m.update(format="trt_int8-bundle-4"), errors.ManifestFormatError),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(
    bundle: Path, loader: Loader, change: Callable[[dict[str, Any]], Any], kind: type[BundleError]
) -> None:
    loader.modules[1]._version = "10.13.3.9"
    edit(bundle, change)
    refused(kind, loader, open_on_card, bundle)


@pytest.mark.parametrize("size", [0, 1, 77, 500])
@pytest.mark.parametrize("opening", [open_on_card, open_on_cpu])
def test_a_manifest_that_was_cut_off_is_refused(
    bundle: Path, loader: Loader, size: int, opening: Callable[[Path, Loader], object]
) -> None:
    os.truncate(bundle / MANIFEST_NAME, size)
    refused(errors.ManifestError, loader, opening, bundle)


@pytest.mark.parametrize("opening", [open_on_card, open_on_cpu])
def test_a_folder_without_a_manifest_is_refused(
    bundle: Path, loader: Loader, opening: Callable[[Path, Loader], object]
) -> None:
    (bundle / MANIFEST_NAME).unlink()
    refused(errors.NoBundleError, loader, opening, bundle)


def test_one_flipped_bit_of_the_manifest_never_lets_other_bytes_through(
    bundle: Path, loader: Loader
) -> None:
    path = bundle / MANIFEST_NAME
    whole = path.read_bytes()
    refusals = 0
    for index in range(0, len(whole), 5):
        data = bytearray(whole)
        data[index] ^= 1 << (index % 8)
        path.write_bytes(data)
        try:
            open_on_card(bundle, loader)
        except BundleError:
            refusals += 1
    assert set(loader.calls) == {FILES[ENGINE]}
    assert refusals > len(whole) // 15


def test_a_bundle_of_another_tensorrt_is_refused(bundle: Path, loader: Loader) -> None:
    vouch(bundle, tensorrt_version="1.6.2.33")
    message = refused(errors.EngineVersionError, loader, open_on_card, bundle)
    assert "pip install 'tensorrt-rtx-cu13==1.6.2.33'" in message
    assert open_on_cpu(bundle, loader).engine is None


def test_a_bundle_whose_tensorrt_is_not_installed_is_refused(
    bundle: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    vouch(bundle, flavour=Flavour.TENSORRT, tensorrt_version="10.13.3.9")
    message = refused(errors.FlavourMissingError, loader, open_on_card, bundle)
    assert "pip install 'tensorrt==10.13.3.9'" in message


def test_a_bundle_without_an_engine_for_the_card_is_refused(bundle: Path, loader: Loader) -> None:
    vouch(bundle, engines=())
    refused(errors.EngineTargetError, loader, open_on_card, bundle)


def test_a_bundle_with_a_plugin_that_is_not_known_here_is_refused(
    bundle: Path, loader: Loader
) -> None:
    entry = PluginEntry(id="trt_int8::odd", version="1", nodes=3, source_sha256="0" * 64)
    vouch(bundle, flavour=Flavour.TENSORRT, plugins=(entry,))
    refused(errors.PluginMissingError, loader, open_on_card, bundle)


@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: flip(p, -1), lambda p: os.truncate(p, 9)]
)
def test_a_bundle_without_the_library_of_its_plugins_is_refused(
    bundle: Path, loader: Loader, damage: Callable[[Path], object]
) -> None:
    (bundle / "plugins").mkdir()
    (bundle / "plugins/libodd.so").write_bytes(library())
    vouch(bundle, plugin_libraries={"libodd.so": sha256(library())})
    damage(bundle / "plugins/libodd.so")
    refused(errors.PluginLibraryError, loader, open_on_card, bundle)


def test_an_engine_of_a_card_that_was_not_asked_for_may_be_damaged(
    bundle: Path, loader: Loader
) -> None:
    flip(bundle / "sm80/int8.engine", 3)
    open_on_card(bundle, loader)
    with pytest.raises(errors.ChangedFileError):
        check_gpu(bundle, A100)
