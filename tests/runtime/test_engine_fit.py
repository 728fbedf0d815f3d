from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.runtime_bundle import A10, A100, ENGINES, T4, VERSION, Installed, make, vouch
from trt_int8.errors import (
    EngineTargetError,
    EngineVersionError,
    FlavourMissingError,
    MissingPackageError,
    PluginMissingError,
)
from trt_int8.plugins.compile import source_sha256
from trt_int8.runtime.checks import check_gpu
from trt_int8.runtime.engine_fit import fitting_engine, installed_version, rebuild_command
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import EngineEntry, Manifest
from trt_int8.spec.plugins import PluginEntry

ATTENTION = "trt_int8::int8_attention"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return vouch(make(tmp_path / "bundle"))


def tensorrt(manifest: Manifest, **changes: object) -> Manifest:
    known = {"flavour": Flavour.TENSORRT, "tensorrt_version": "10.13.3.9"}
    return manifest.model_copy(update=known | changes)


def card(sm: int) -> Card:
    return Card(index=3, name="Some Card", sm=sm, memory_bytes=1, driver_version=13000)


def plugin(**changes: object) -> PluginEntry:
    known: dict[str, object] = {"id": ATTENTION, "version": "1", "nodes": 12}
    known["source_sha256"] = source_sha256("int8_attention.cu")
    return PluginEntry.model_validate(known | changes)


@pytest.mark.parametrize(("here", "path"), [(T4, "sm75"), (A100, "sm80")])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_engine_of_the_cards_sm_and_the_precision_is_chosen(
    manifest: Manifest, here: Card, path: str, precision: str
) -> None:
    found = fitting_engine(manifest, here, precision, Installed())  # type: ignore[arg-type]
    assert found.path == f"{path}/{precision}.engine"


def test_an_engine_for_sm_80_is_not_taken_for_an_sm_86(manifest: Manifest) -> None:
    with pytest.raises(EngineTargetError) as caught:
        fitting_engine(manifest, A10, installed=Installed())
    assert caught.value.came == (
        "card cuda:0 (NVIDIA A10) is SM86, and the int8 engines of this bundle are for SM75, SM80"
    )
    assert (
        "run: trt-int8 build --model MODEL --flavour rtx --target sm75,sm80,sm86;"
        in caught.value.todo
    )


def test_the_command_of_the_mend_is_one_that_the_command_line_takes(manifest: Manifest) -> None:
    from trt_int8.cli.build import build
    from trt_int8.spec.targets import check_rtx_targets, parse_targets

    command = rebuild_command(manifest, 86)
    assert command is not None
    words = command.split()
    options = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    assert options <= set(build.__annotations__)
    targets = parse_targets(words[words.index("--target") + 1])
    check_rtx_targets(targets)
    assert [target.sm for target in targets] == [75, 80, 86]


@pytest.mark.parametrize("sm", [70, 90, 100])
def test_a_card_that_tensorrt_rtx_has_no_target_for_is_sent_to_tensorrt(
    manifest: Manifest, sm: int
) -> None:
    assert rebuild_command(manifest, sm) is None
    with pytest.raises(EngineTargetError, match=rf"builds none for SM{sm}: .*--flavour tensorrt"):
        fitting_engine(manifest, card(sm), installed=Installed())


def test_an_engine_of_tensorrt_is_built_again_on_the_card_itself(manifest: Manifest) -> None:
    with pytest.raises(
        EngineTargetError,
        match=r"on the machine with that card run: trt-int8 build --model MODEL --flavour tensorrt",
    ):
        fitting_engine(tensorrt(manifest), A10, installed=Installed("10.13.3.9"))


def test_a_bundle_without_engines_of_the_precision_says_so(manifest: Manifest) -> None:
    only = manifest.model_copy(update={"engines": ENGINES[::2]})
    assert {engine.precision for engine in only.engines} == {"int8"}
    with pytest.raises(EngineTargetError, match="has no fp16 engine"):
        fitting_engine(only, T4, "fp16", Installed())


def test_an_engine_whose_card_is_not_recorded_comes_after_one_whose_card_is(
    manifest: Manifest,
) -> None:
    local = EngineEntry(path="local/int8.engine", sm=None, precision="int8")
    both = manifest.model_copy(update={"engines": (local, *ENGINES)})
    assert fitting_engine(both, T4, installed=Installed()).path == "sm75/int8.engine"
    assert fitting_engine(both, A10, installed=Installed()) == local


def test_an_engine_whose_card_is_not_recorded_is_noted(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle", tensorrt_version="0")
    local = EngineEntry(path="sm75/int8.engine", sm=None, precision="int8")
    vouch(bundle, tensorrt_version="0", engines=(local,))
    notes = check_gpu(bundle, A10, installed=Installed("0")).notes
    assert len(notes) == 1
    assert "does not say for which card 'sm75/int8.engine' was built" in notes[0]


@pytest.mark.parametrize("found", ["1.7.1.115", "1.7.0.116", "1.6.1.116", "2.7.1.116", "1.7.1", ""])
def test_another_release_of_tensorrt_rtx_is_refused(manifest: Manifest, found: str) -> None:
    with pytest.raises(EngineVersionError, match=r"pip install 'tensorrt-rtx-cu13==1\.7\.1\.116'"):
        fitting_engine(manifest, T4, installed=Installed(found))


@pytest.mark.parametrize("found", ["10.13.3.10", "10.13.2.9", "10.14.3.9", "11.13.3.9", "8.6.1"])
def test_another_build_of_tensorrt_is_refused(manifest: Manifest, found: str) -> None:
    with pytest.raises(EngineVersionError, match=rf"TensorRT {found} is installed.*10\.13\.3\.9"):
        fitting_engine(tensorrt(manifest), T4, installed=Installed(found))


def test_the_version_is_asked_of_the_flavour_that_built_the_bundle(manifest: Manifest) -> None:
    asked = Installed()
    fitting_engine(manifest, T4, installed=asked)
    other = Installed("10.13.3.9")
    fitting_engine(tensorrt(manifest), T4, installed=other)
    assert (asked.asked, other.asked) == ([Flavour.RTX], [Flavour.TENSORRT])


def raising(error: Exception) -> Callable[[Flavour], str]:
    def ask(_flavour: Flavour) -> str:
        raise error

    return ask


def test_a_tensorrt_that_is_not_installed_is_named_with_its_version(manifest: Manifest) -> None:
    missing = MissingPackageError("a", wanted="b", todo="c")
    with pytest.raises(FlavourMissingError) as caught:
        fitting_engine(manifest, T4, installed=raising(missing))
    assert str(caught.value) == (
        f"TensorRT-RTX is not installed; wanted TensorRT-RTX {VERSION}, which built the engines of"
        f" this bundle; run: pip install 'tensorrt-rtx-cu13=={VERSION}'; or pass --device cpu."
    )


@pytest.mark.parametrize("kind", [OSError, ImportError, RuntimeError])
def test_a_tensorrt_whose_libraries_do_not_load_quotes_the_reason(
    manifest: Manifest, kind: type[Exception]
) -> None:
    broken = kind("libnvinfer.so.10: cannot open shared object file\nmore")
    with pytest.raises(
        FlavourMissingError, match=r"TensorRT cannot be loaded \(libnvinfer\.so\.10: .* file\)"
    ):
        fitting_engine(tensorrt(manifest), T4, installed=raising(broken))


def test_a_folder_that_only_has_the_name_of_tensorrt_is_no_tensorrt(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(FlavourMissingError, match=r"cannot be loaded \(.*__version__"):
        fitting_engine(tensorrt(manifest), T4)


def test_the_card_is_judged_before_tensorrt_is_imported(manifest: Manifest) -> None:
    asked = Installed()
    with pytest.raises(EngineTargetError):
        fitting_engine(manifest, A10, installed=asked)
    assert asked.asked == []


def test_the_installed_version_is_that_of_the_package() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    assert installed_version(Flavour.RTX) == rtx.__version__


def test_an_engine_with_our_plugins_fits(manifest: Manifest) -> None:
    built = tensorrt(manifest, plugins=(plugin(),))
    assert fitting_engine(built, T4, installed=Installed("10.13.3.9")).path == "sm75/int8.engine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "trt_int8::int8_attention_odd"}, "has none of that name"),
        ({"version": "2"}, "of version 2, and this trt-int8 has version 1"),
    ],
)
def test_a_plugin_that_this_version_does_not_have_is_refused(
    manifest: Manifest, changes: dict[str, object], said: str
) -> None:
    built = tensorrt(manifest, plugins=(plugin(), plugin(**changes)))
    with pytest.raises(PluginMissingError, match=rf"12 nodes .*{said}; wanted trt-int8 0\.1\.0"):
        fitting_engine(built, T4, installed=Installed("10.13.3.9"))
    assert fitting_engine(built, T4, "fp16", Installed("10.13.3.9")).precision == "fp16"


def test_tensorrt_rtx_has_no_plugins_so_none_can_be_missing(manifest: Manifest) -> None:
    built = manifest.model_copy(update={"plugins": (plugin(id="trt_int8::odd"),)})
    assert fitting_engine(built, T4, installed=Installed())


@pytest.mark.parametrize("changed", [False, True])
def test_a_plugin_whose_source_has_changed_is_noted_and_not_refused(
    tmp_path: Path, changed: bool
) -> None:
    entry = plugin(source_sha256="0" * 64) if changed else plugin()
    version = "10.13.3.9"
    bundle = make(
        tmp_path / "bundle",
        flavour=Flavour.TENSORRT,
        tensorrt_version=version,
        plugins=(entry,),
    )
    notes = check_gpu(bundle, T4, installed=Installed(version)).notes
    assert [ATTENTION in note for note in notes] == [True] * changed
    assert check_gpu(bundle, T4, "fp16", Installed(version)).notes == ()
