from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runtime_bundle import (
    A10,
    FILES,
    T4,
    VERSION,
    Installed,
    edit,
    flip,
    library,
    make,
    sha256,
    swap,
    vouch,
)
from trt_int8.errors import (
    BundleError,
    ChangedFileError,
    DeviceError,
    EngineTargetError,
    ManifestError,
    MissingFileError,
    MissingPackageError,
)
from trt_int8.runtime.audit import Machine, audit
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.bundle_report import BundleReport
from trt_int8.spec.manifest import Verdict


def machine(*cards: Card, version: str = VERSION, packages: str = "openvino") -> Machine:
    return Machine(lambda: cards, Installed(version), lambda name: name in packages.split())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def states(report: BundleReport) -> dict[str, str]:
    return {file.name: file.state for file in report.files if file.state != "whole"}


def test_a_sound_bundle_is_whole_and_runs_on_every_device_it_fits(bundle: Path) -> None:
    found = audit(bundle, machine=machine(T4))
    assert found.report.whole
    assert [file.name for file in found.report.files] == sorted(FILES)
    assert {file.state for file in found.report.files} == {"whole"}
    assert [(d.device, d.name, d.runs) for d in found.report.devices] == [
        ("cpu", "openvino", "model.int8.onnx"),
        ("cuda:0", "Tesla T4, SM75", "sm75/int8.engine"),
    ]
    for device in (None, "auto", "cpu", "cuda:0"):
        found.raise_first(device)


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (Path.unlink, "missing"),
        (lambda path: os.truncate(path, 3), "cut off"),
        (lambda path: flip(path, 0), "changed"),
        (lambda path: swap(path, path.parent / "int8.engine"), "swapped"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hosts")), "unsafe"),
    ],
)
def test_each_damage_has_its_own_word(
    bundle: Path, damage: Callable[[Path], object], state: str
) -> None:
    damage(bundle / "sm80/fp16.engine")
    found = audit(bundle, machine=machine(T4))
    assert not found.report.whole
    assert states(found.report)["sm80/fp16.engine"] == state
    with pytest.raises(BundleError, match=r"sm80/(fp16|int8)\.engine"):
        found.raise_first()


def test_every_damaged_file_is_listed_and_the_first_is_raised(bundle: Path) -> None:
    flip(bundle / "sm75/int8.engine", 1)
    (bundle / "model.fp16.onnx").unlink()
    found = audit(bundle, machine=machine())
    assert states(found.report) == {"model.fp16.onnx": "missing", "sm75/int8.engine": "changed"}
    with pytest.raises(MissingFileError, match=r"model\.fp16\.onnx"):
        found.raise_first()


def test_a_device_that_needs_no_damaged_file_can_still_run(bundle: Path) -> None:
    flip(bundle / "sm75/int8.engine", 1)
    cpu, card = audit(bundle, machine=machine(T4)).report.devices
    assert (cpu.runs, card.runs) == ("model.int8.onnx", None)
    assert card.problem is not None
    assert "was changed" in card.problem


def test_the_damaged_model_stops_every_device(bundle: Path) -> None:
    flip(bundle / "model.int8.onnx", 1)
    devices = audit(bundle, machine=machine(T4)).report.devices
    assert [device.runs for device in devices] == [None, None]


def test_the_fp16_twins_are_judged_if_asked_for(bundle: Path) -> None:
    flip(bundle / "model.int8.onnx", 1)
    devices = audit(bundle, "fp16", machine(T4)).report.devices
    assert [device.runs for device in devices] == ["model.fp16.onnx", "sm75/fp16.engine"]


def test_an_unlisted_file_is_shown_and_harms_nothing(bundle: Path) -> None:
    (bundle / "sm75/notes.txt").write_text("mine", encoding="utf-8")
    (bundle / "broken").symlink_to("nowhere")
    found = audit(bundle, machine=machine())
    assert states(found.report) == {"broken": "not listed", "sm75/notes.txt": "not listed"}
    assert found.report.whole


def test_an_engine_that_contradicts_the_manifest_is_shown(bundle: Path) -> None:
    edit(bundle, lambda m: m["engines"][0].update(sm=86))
    found = audit(bundle, machine=machine())
    assert states(found.report) == {"sm75/int8.engine": "contradicts"}
    with pytest.raises(ManifestError):
        found.raise_first()


def test_a_plugin_library_that_is_named_only_is_missing(bundle: Path) -> None:
    vouch(bundle, plugin_libraries={"libodd.so": sha256(library())})
    found = audit(bundle, machine=machine(T4))
    assert states(found.report) == {"plugins/libodd.so": "wrong library"}
    cpu, card = found.report.devices
    assert (cpu.runs, card.runs) == ("model.int8.onnx", None)


def test_a_plugin_library_put_there_by_hand_is_whole(bundle: Path) -> None:
    vouch(bundle, plugin_libraries={"libodd.so": sha256(library())})
    (bundle / "plugins").mkdir()
    (bundle / "plugins/libodd.so").write_bytes(library())
    found = audit(bundle, machine=machine(T4))
    assert states(found.report) == {}
    assert found.report.devices[1].runs == "sm75/int8.engine"


def test_a_card_without_an_engine_says_why_and_fails_only_if_asked_for(bundle: Path) -> None:
    found = audit(bundle, machine=machine(A10))
    assert found.report.devices[1].runs is None
    found.raise_first()
    found.raise_first("auto")
    found.raise_first("cpu")
    with pytest.raises(EngineTargetError, match="is SM86"):
        found.raise_first("cuda:0")


def test_a_foreign_tensorrt_stops_the_cards_alone(bundle: Path) -> None:
    found = audit(bundle, machine=machine(T4, version="1.6.0.1"))
    assert [device.runs for device in found.report.devices] == ["model.int8.onnx", None]


def test_a_card_that_is_not_there_is_an_error_of_the_device(bundle: Path) -> None:
    with pytest.raises(DeviceError, match="no device 'cuda:7'; wanted one of cpu, cuda:0"):
        audit(bundle, machine=machine(T4)).raise_first("cuda:7")


def test_the_fallback_runs_where_openvino_is_not_installed(bundle: Path) -> None:
    found = audit(bundle, machine=machine(packages="onnxruntime"))
    assert found.report.devices[0].name == "onnxruntime"


def test_a_machine_without_anything_that_runs_a_model_says_so(bundle: Path) -> None:
    found = audit(bundle, machine=machine(packages=""))
    found.raise_first()
    for device in ("cpu", "auto"):
        with pytest.raises(MissingPackageError, match="neither openvino nor onnxruntime"):
            found.raise_first(device)
    audit(bundle, machine=machine(T4, packages="")).raise_first("auto")


def test_damage_comes_before_the_device(bundle: Path) -> None:
    flip(bundle / "tokenizer/vocab.txt", 0)
    with pytest.raises(ChangedFileError):
        audit(bundle, machine=machine()).raise_first("cuda:7")


def test_advice_of_the_build_stands_beside_each_device(bundle: Path) -> None:
    vouch(bundle, verdict=Verdict(recommended="fp16", failures=("too far",)))
    for device in audit(bundle, machine=machine(T4)).report.devices:
        assert "recommends fp16" in device.notes[0]


def test_progress_counts_every_byte_of_the_listed_files_once(bundle: Path) -> None:
    seen: list[float] = []
    audit(bundle, machine=machine(), advance=lambda _manifest: seen.append)
    assert sum(seen) == sum(map(len, FILES.values()))


def test_the_report_survives_its_json_form(bundle: Path) -> None:
    flip(bundle / "model.int8.onnx", 0)
    report = audit(bundle, machine=machine(A10)).report
    assert BundleReport.model_validate_json(report.to_json()) == report
    assert json.loads(report.to_json())["whole"] is False


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_an_unlisted_file_whose_name_is_no_utf8_is_shown(bundle: Path) -> None:
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff.bin")).write_bytes(b"mine")
    report = audit(bundle, machine=machine()).report
    assert states(report) == {"\\xff.bin": "not listed"}
    assert BundleReport.model_validate_json(report.to_json()) == report


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_a_bundle_whose_path_is_no_utf8_is_reported(tmp_path: Path) -> None:
    bundle = make(Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xfcndel")))
    flip(bundle / "model.int8.onnx", 0)
    report = audit(bundle, machine=machine()).report
    assert report.path.endswith("b\\xfcndel")
    assert BundleReport.model_validate_json(report.to_json()) == report


def test_an_unlisted_file_that_may_not_be_looked_at_is_shown(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    look = Path.is_dir

    def refused(path: Path) -> bool:
        if path.name == "notes.txt":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    assert states(audit(bundle, machine=machine()).report) == {"notes.txt": "not listed"}
