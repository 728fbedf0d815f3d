from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runtime_bundle import (
    A100,
    ENGINES,
    FILES,
    T4,
    Installed,
    edit,
    flip,
    library,
    make,
    sha256,
    vouch,
)
from trt_int8.errors import (
    BundleError,
    ChangedFileError,
    EngineTargetError,
    ManifestError,
    MissingFileError,
    PluginLibraryError,
)
from trt_int8.runtime.checks import check_cpu, check_gpu, private_copy
from trt_int8.spec.manifest import Verdict

DOUBT = Verdict(recommended="fp16", failures=("mean cosine 0.9 is under 0.97", "slow"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def test_the_cpu_gets_the_int8_model_and_no_engine(bundle: Path) -> None:
    checked = check_cpu(bundle)
    assert (checked.folder, checked.precision, checked.engine) == (bundle, "int8", None)
    assert checked.model == bundle / "model.int8.onnx"
    assert checked.read_model() == FILES["model.int8.onnx"]
    assert checked.notes == ()


def test_the_cpu_gets_the_fp16_model_if_asked(bundle: Path) -> None:
    assert check_cpu(bundle, "fp16").read_model() == FILES["model.fp16.onnx"]


@pytest.mark.parametrize(("card", "sm"), [(T4, 75), (A100, 80)])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_card_gets_its_engine_and_the_model_beside_it(
    bundle: Path, card: object, sm: int, precision: str
) -> None:
    checked = check_gpu(bundle, card, precision, Installed())  # type: ignore[arg-type]
    assert checked.engine == bundle / f"sm{sm}" / f"{precision}.engine"
    assert checked.read_engine() == FILES[f"sm{sm}/{precision}.engine"]
    assert checked.read_model() == FILES[f"model.{precision}.onnx"]


def test_the_engine_of_a_bundle_checked_for_the_cpu_is_an_error(bundle: Path) -> None:
    with pytest.raises(EngineTargetError, match="was checked for the CPU"):
        check_cpu(bundle).read_engine()


def test_the_cpu_needs_no_other_file_than_its_model(bundle: Path) -> None:
    for name in FILES:
        if name != "model.int8.onnx":
            (bundle / name).unlink()
    assert check_cpu(bundle).read_model() == FILES["model.int8.onnx"]


def test_a_card_needs_no_engine_but_its_own(bundle: Path) -> None:
    for name in FILES:
        if name not in ("model.int8.onnx", "sm80/int8.engine"):
            (bundle / name).unlink()
    assert check_gpu(bundle, A100, installed=Installed()).read_engine()


def test_a_folder_given_relative_is_found_after_a_change_of_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    checked = check_cpu(Path("bundle"))
    monkeypatch.chdir("/")
    assert checked.read_model() == FILES["model.int8.onnx"]


def test_an_engine_replaced_after_its_check_is_never_handed_over(bundle: Path) -> None:
    checked = check_gpu(bundle, T4, installed=Installed())
    flip(bundle / "sm75/int8.engine", -1)
    with pytest.raises(ChangedFileError, match=r"sm75/int8\.engine"):
        checked.read_engine()


def test_a_model_replaced_after_its_check_is_never_handed_over(bundle: Path) -> None:
    checked = check_cpu(bundle)
    (bundle / "model.int8.onnx").write_bytes(FILES["model.fp16.onnx"])
    with pytest.raises(ChangedFileError, match=r"has the content of 'model\.fp16\.onnx'"):
        checked.read_model()


def test_a_bundle_replaced_as_a_whole_after_its_check_is_never_handed_over(
    bundle: Path,
) -> None:
    checked = check_cpu(bundle)
    (bundle / "model.int8.onnx").write_bytes(b"of a later build")
    vouch(bundle)
    assert check_cpu(bundle).read_model() == b"of a later build"
    with pytest.raises(ChangedFileError):
        checked.read_model()


def test_a_bundle_without_the_model_of_a_precision_says_so(bundle: Path) -> None:
    (bundle / "model.fp16.onnx").unlink()
    vouch(bundle)
    with pytest.raises(MissingFileError, match=r"lists no file 'model\.fp16\.onnx'"):
        check_cpu(bundle, "fp16")


@pytest.mark.parametrize("on_card", [False, True])
def test_int8_against_the_advice_of_the_build_is_noted_with_the_reason(
    bundle: Path, on_card: bool
) -> None:
    vouch(bundle, verdict=DOUBT)
    checked = check_gpu(bundle, T4, installed=Installed()) if on_card else check_cpu(bundle)
    assert checked.precision == "int8"
    assert checked.notes == (
        "the build recommends fp16 instead of int8 (mean cosine 0.9 is under 0.97; slow):"
        " pass precision='fp16'",
    )


def test_fp16_as_the_build_advises_needs_no_note(bundle: Path) -> None:
    vouch(bundle, verdict=DOUBT)
    assert check_cpu(bundle, "fp16").notes == ()


def test_more_files_are_checked_when_they_are_used(bundle: Path) -> None:
    checked = check_cpu(bundle)
    assert checked.names_below("tokenizer") == ("tokenizer/vocab.txt",)
    assert checked.read("tokenizer/vocab.txt") == FILES["tokenizer/vocab.txt"]
    flip(bundle / "tokenizer/vocab.txt", 0)
    with pytest.raises(ChangedFileError, match=r"tokenizer/vocab\.txt"):
        checked.read("tokenizer/vocab.txt")


def test_a_private_copy_holds_the_checked_files_and_nothing_else(bundle: Path) -> None:
    (bundle / "tokenizer/planted.py").write_text("boom", encoding="utf-8")
    checked = check_cpu(bundle)
    with private_copy(checked, checked.names_below("tokenizer")) as folder:
        files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert files == {"tokenizer/vocab.txt"}
        assert (folder / "tokenizer/vocab.txt").read_bytes() == FILES["tokenizer/vocab.txt"]
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_a_private_copy_of_a_changed_file_is_refused_and_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    checked = check_cpu(bundle)
    flip(bundle / "tokenizer/vocab.txt", 3)
    with pytest.raises(ChangedFileError), private_copy(checked, ["tokenizer/vocab.txt"]):
        pytest.fail("the block must not run")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_room_for_a_private_copy_is_one_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", no_room)
    with (
        pytest.raises(BundleError, match="set TMPDIR"),
        private_copy(check_cpu(bundle), ["tokenizer/vocab.txt"]),
    ):
        pytest.fail("the block must not run")


def test_a_card_without_the_plugin_library_of_its_engine_is_refused(bundle: Path) -> None:
    vouch(bundle, plugin_libraries={"libodd.so": sha256(library())})
    with pytest.raises(PluginLibraryError, match=r"'plugins/libodd\.so' .* is missing"):
        check_gpu(bundle, T4, installed=Installed())
    assert check_cpu(bundle).engine is None


def test_the_plugin_library_of_an_engine_is_handed_over(bundle: Path) -> None:
    (bundle / "plugins").mkdir()
    (bundle / "plugins/libodd.so").write_bytes(library())
    vouch(bundle, plugin_libraries={"libodd.so": sha256(library())})
    checked = check_gpu(bundle, T4, installed=Installed())
    assert checked.read_library("libodd.so") == library()


@pytest.mark.parametrize("index", [0, 2])
def test_an_sm_edited_in_the_manifest_is_found_in_the_engine_itself(
    bundle: Path, index: int
) -> None:
    def exchange(fields: dict[str, list[dict[str, object]]]) -> None:
        for engine in fields["engines"]:
            engine["sm"] = {75: 80, 80: 75}[engine["sm"]]  # type: ignore[index]

    edit(bundle, exchange)
    card = T4 if index else A100
    said = r"but the engine itself says SM(75|80), TensorRT-RTX 1\.7\.1\.116"
    with pytest.raises(ManifestError, match=said):
        check_gpu(bundle, card, installed=Installed())


def test_a_listed_file_that_is_no_engine_is_refused(bundle: Path) -> None:
    (bundle / "sm75/int8.engine").write_bytes(b"not an engine at all".ljust(99))
    vouch(bundle)
    with pytest.raises(ManifestError, match=r"but 'int8\.engine' is not a plan"):
        check_gpu(bundle, T4, installed=Installed())


def test_the_header_of_an_unknown_release_is_not_judged(bundle: Path) -> None:
    (bundle / "sm75/int8.engine").write_bytes(b"of a form never seen")
    vouch(bundle, tensorrt_version="2.0.0.1")
    checked = check_gpu(bundle, T4, installed=Installed("2.0.0.1"))
    assert checked.read_engine() == b"of a form never seen"


def test_every_way_to_refuse_can_be_caught_as_one(bundle: Path) -> None:
    vouch(bundle, engines=ENGINES[:2])
    with pytest.raises(BundleError):
        check_gpu(bundle, A100, installed=Installed())
