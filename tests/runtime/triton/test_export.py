from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.runtime.triton.tiny import CLASSES, classifier, make_bundle
from tests.support.bundles import contents
from trt_int8.errors import BundleError, DeviceError, EngineTargetError, RequestError
from trt_int8.runtime.triton import export
from trt_int8.runtime.triton.export import export_triton
from trt_int8.runtime.triton.options import TritonOptions, model_name
from trt_int8.runtime.triton.place import MARKER_NAME
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import FileEntry

CPU = TritonOptions(device="cpu")
AGAIN = TritonOptions(device="cpu", name="other", force=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", text=CLASSES)


def test_rtx_engines_are_refused_with_both_mends(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", flavour=Flavour.RTX)
    with pytest.raises(EngineTargetError, match=r"--flavour tensorrt.*--backend onnxruntime"):
        export_triton(bundle, tmp_path / "repo", TritonOptions())
    assert not (tmp_path / "repo").exists()


def test_a_card_without_an_engine_is_refused_with_the_cards_there_are(
    tmp_path: Path, bundle: Path
) -> None:
    with pytest.raises(
        EngineTargetError, match="no int8 engine for SM 86; wanted one of SM 75, 80"
    ):
        export_triton(bundle, tmp_path / "repo", TritonOptions(sm=86))


def test_an_sm_means_nothing_without_engines(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(RequestError, match="--sm 80 with the backend python"):
        export_triton(bundle, tmp_path / "repo", TritonOptions(device="cpu", sm=80))


@pytest.mark.parametrize(
    "name", ["model.int8.onnx", "sm75/int8.engine", "tokenizer/tokenizer.json"]
)
def test_a_damaged_file_is_refused_and_nothing_is_left(
    tmp_path: Path, bundle: Path, name: str
) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        export_triton(bundle, tmp_path / "repo", TritonOptions(text=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_file_that_changes_while_it_is_copied_is_refused(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_other(_source: Path, place: Path, *, link: bool) -> None:
        assert not link
        place.write_bytes(b"other")

    monkeypatch.setattr(export, "_copy", copy_other)
    with pytest.raises(BundleError, match="changed while it was copied"):
        export_triton(bundle, tmp_path / "repo", CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_the_marker_lists_every_other_file(tmp_path: Path, bundle: Path) -> None:
    repo = export_triton(bundle, tmp_path / "repo", CPU).folder
    marker = json.loads((repo / MARKER_NAME).read_text(encoding="utf-8"))
    assert set(marker["files"]) | {MARKER_NAME} == set(contents(repo))
    assert FileEntry(**marker["files"]["tiny/1/model.onnx"]).size_bytes == (
        (bundle / "model.int8.onnx").stat().st_size
    )


def test_an_old_repository_stays_without_force(tmp_path: Path, bundle: Path) -> None:
    repo = export_triton(bundle, tmp_path / "repo", CPU).folder
    before = contents(repo)
    with pytest.raises(BundleError, match="pass --force"):
        export_triton(bundle, repo, TritonOptions(device="cpu", name="other"))
    assert contents(repo) == before


def test_force_replaces_the_whole_repository(tmp_path: Path, bundle: Path) -> None:
    repo = export_triton(bundle, tmp_path / "repo", CPU).folder
    (repo / "tiny" / "1" / "__pycache__").mkdir()
    (repo / "tiny" / "1" / "__pycache__" / "model.pyc").write_bytes(b"left by a server")
    export_triton(bundle, repo, AGAIN)
    assert (repo / "other").is_dir()
    assert not (repo / "tiny").exists()


@pytest.mark.parametrize("change", ["new", "edited", "no marker", "bad marker"])
def test_force_does_not_replace_what_is_not_ours(tmp_path: Path, bundle: Path, change: str) -> None:
    repo = export_triton(bundle, tmp_path / "repo", CPU).folder
    if change == "new":
        (repo / "tiny" / "2").mkdir()
        (repo / "tiny" / "2" / "model.py").write_text("mine", encoding="utf-8")
    elif change == "edited":
        (repo / "tiny" / "config.pbtxt").write_text("mine", encoding="utf-8")
    elif change == "no marker":
        (repo / MARKER_NAME).unlink()
    else:
        (repo / MARKER_NAME).write_text("{", encoding="utf-8")
    before = contents(repo)
    with pytest.raises(BundleError, match="did not write"):
        export_triton(bundle, repo, AGAIN)
    assert contents(repo) == before


def test_a_bundle_is_not_a_repository(tmp_path: Path, bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(BundleError, match="did not write"):
        export_triton(bundle, bundle, AGAIN)
    assert contents(bundle) == before


def test_links_save_the_copy(tmp_path: Path, bundle: Path) -> None:
    repo = export_triton(bundle, tmp_path / "repo", TritonOptions(link=True)).folder
    assert (repo / "tiny" / "1" / "model_sm80.plan").samefile(bundle / "sm80" / "int8.engine")


def test_copies_are_files_of_their_own(tmp_path: Path, bundle: Path) -> None:
    repo = export_triton(bundle, tmp_path / "repo", TritonOptions()).folder
    assert not (repo / "tiny" / "1" / "model_sm80.plan").samefile(bundle / "sm80" / "int8.engine")


def test_plugin_functions_are_replaced_by_their_bodies(tmp_path: Path) -> None:
    graph = classifier()
    body = helper.make_function(
        "trt_int8",
        "double_count",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"], name="inside")],
        [helper.make_opsetid("", 17)],
    )
    graph.graph.node[-1].input[0] = "twice"
    call = helper.make_node("double_count", ["count"], ["twice"], domain="trt_int8", name="call")
    graph.graph.node.insert(len(graph.graph.node) - 1, call)
    graph.functions.append(body)
    graph.opset_import.append(helper.make_opsetid("trt_int8", 1))
    onnx.checker.check_model(graph)
    bundle = make_bundle(tmp_path / "bundle", graph=graph)
    repo = export_triton(bundle, tmp_path / "repo", CPU).folder
    plain = onnx.load(str(repo / "tiny" / "1" / "model.onnx"))
    assert not plain.functions
    assert {node.domain for node in plain.graph.node} == {""}


def test_the_server_command_names_the_plugin_libraries(tmp_path: Path) -> None:
    # The least that passes for a shared library: the start of an ELF header.
    machine = {"x86_64": 62, "aarch64": 183}[platform.machine()]
    library = (b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine)).ljust(
        64, b"\0"
    )
    digest = hashlib.sha256(library).hexdigest()
    bundle = make_bundle(tmp_path / "bundle", plugin_libraries={"libmine.so": digest})
    (bundle / "plugins").mkdir()
    (bundle / "plugins" / "libmine.so").write_bytes(library)
    repo = export_triton(bundle, tmp_path / "repo", TritonOptions()).folder
    assert (repo / "tiny" / "1" / "libmine.so").read_bytes() == library
    script = (repo / "run.sh").read_text(encoding="utf-8")
    assert " --backend-config=tensorrt,plugins=/models/tiny/1/libmine.so" in script
    assert " --disable-auto-complete-config " in script
    assert "LD_PRELOAD=/models/tiny/1/libmine.so " in (repo / "README.md").read_text()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_script_is_a_shell_script_that_asks_for_the_image(
    tmp_path: Path, bundle: Path, device: str
) -> None:
    repo = export_triton(bundle, tmp_path / "repo", TritonOptions(device=device, text=True)).folder
    bare = {key: value for key, value in os.environ.items() if key != "TRITON_IMAGE"}
    ran = subprocess.run(
        ["sh", str(repo / "run.sh")], env=bare, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "TRITON_IMAGE: set it to an image of Triton" in ran.stderr
    assert ("--gpus all" in (repo / "run.sh").read_text()) == (device == "cuda")
    assert os.access(repo / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "gpu"}, DeviceError),
        ({"device": "cuda:x"}, DeviceError),
        ({"device": "cpu", "backend": "tensorrt"}, DeviceError),
        ({"name": "a/b"}, RequestError),
        ({"name": ".."}, RequestError),
        ({"name": "run.sh"}, RequestError),
        ({"name": "Dockerfile"}, RequestError),
        ({"precision": "fp8"}, RequestError),
        ({"max_batch": 0}, RequestError),
        ({"instances": -1}, RequestError),
        ({"queue_delay_us": -1}, RequestError),
    ],
)
def test_odd_options_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        TritonOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("org/model v2", "org_model_v2"),
        ("../x", "_x"),
        ("北京", "_"),
        ("...", "model"),
        ("run.sh", "run.sh_"),
    ],
)
def test_the_name_of_a_bundle_becomes_a_name_for_an_address(given: str, name: str) -> None:
    assert model_name(None, given) == name


def test_a_repository_does_not_go_into_the_bundle(tmp_path: Path, bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(BundleError, match="lies in the bundle"):
        export_triton(bundle, bundle / "repo", CPU)
    assert contents(bundle) == before
