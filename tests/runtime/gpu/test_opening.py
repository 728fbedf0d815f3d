"""What an engine on a card is refused for, and what comes before it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.runtime.gpu.fake_trt_types import PLAN, Kind
from tests.runtime.gpu.opened import (
    checked_bundle,
    fresh,
    open_backend,
    opened,
    request,
    signature,
)
from trt_int8.engine.flavour import local_sm
from trt_int8.errors import BundleError, EngineError, PluginLibraryError, SessionError
from trt_int8.runtime.gpu import plugins
from trt_int8.runtime.gpu.backend import EngineBackend, GpuOptions, open_engine
from trt_int8.spec.build import Precision
from trt_int8.spec.plugins import PluginEntry


def test_an_engine_with_other_inputs_than_its_onnx_file_is_refused(tmp_path: Path) -> None:
    trt = fresh()
    trt.output_names = ("scores", "sum")
    with pytest.raises(SessionError, match=r"gives \['scores', 'sum'\].*'total'"):
        open_backend(tmp_path, trt)


def test_an_engine_with_other_profiles_than_its_manifest_is_refused(tmp_path: Path) -> None:
    trt = fresh()
    trt.profiles = 1
    with pytest.raises(SessionError, match=r"has 1 profiles; wanted .* and 2, as its ONNX file"):
        open_backend(tmp_path, trt)


def test_an_engine_with_types_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    trt = fresh()
    trt.token_kind = Kind.FP8
    with pytest.raises(SessionError, match=r"'ids' of the engine is FP8 .*; wanted FLOAT, HALF"):
        open_backend(tmp_path, trt)
    assert trt.cuda.alive() == {}


def test_an_engine_that_wants_memory_of_the_host_is_refused(tmp_path: Path) -> None:
    trt = fresh()
    trt.host_output = True
    with pytest.raises(SessionError, match=r"'scores' of the engine is FLOAT in .*HOST"):
        open_backend(tmp_path, trt)
    assert trt.cuda.alive() == {}


def test_an_output_whose_shape_depends_on_the_data_is_refused(tmp_path: Path) -> None:
    trt = fresh()
    trt.data_dependent = True
    with pytest.raises(SessionError, match="shape of output 'total' depends on the values"):
        open_backend(tmp_path, trt)


def test_an_engine_that_tensorrt_cannot_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    trt = fresh("rtx")
    trt.loads = False
    with pytest.raises(
        SessionError,
        match=r"deserialize_cuda_engine of TensorRT-RTX 1\.7\.1 failed \(Version tag does not",
    ):
        open_backend(tmp_path, trt)


def test_a_driver_that_is_too_old_is_the_thing_to_update(tmp_path: Path) -> None:
    trt = fresh()
    trt.script.fail_name = "Runtime"
    with pytest.raises(SessionError, match=r"error: 35\).*update the driver"):
        open_backend(tmp_path, trt)


def test_what_failed_before_does_not_explain_what_fails_now(tmp_path: Path) -> None:
    trt = fresh()
    trt.loads = False
    with pytest.raises(SessionError, match="Version tag"):
        open_backend(tmp_path / "first", trt)
    trt.loads, trt.script.fail_name = True, "set_tensor_address"
    backend = open_backend(tmp_path / "second", trt)
    with pytest.raises(SessionError, match=r"failed \(no reason in its log\)"):
        backend.run(request(1, 17))
    backend.close()


def test_a_card_without_enough_memory_says_so(tmp_path: Path) -> None:
    trt = fresh()
    trt.cuda.memory_bytes = 8000
    with pytest.raises(SessionError, match=r"cuMemAlloc .*OUT_OF_MEMORY.*free memory"):
        open_backend(tmp_path, trt)
    assert trt.cuda.alive() == {}


def test_an_engine_changed_after_its_check_is_not_deserialised(tmp_path: Path) -> None:
    trt = fresh()
    checked = checked_bundle(tmp_path, "10")
    assert checked.engine is not None
    checked.engine.write_bytes(b"other")
    with pytest.raises(BundleError):
        EngineBackend(checked, signature(), 0, GpuOptions(driver=trt.cuda, tensorrt=trt))
    assert trt.plans == []


def test_the_bytes_that_are_deserialised_are_those_of_the_file(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt):
        assert trt.plans == [PLAN]


@pytest.mark.skipif(local_sm() is not None, reason="this machine has a card")
def test_without_a_card_the_error_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.driver")
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(SessionError, match="cuInit of the CUDA driver gave"):
        open_engine(checked_bundle(tmp_path, "rtx"), signature(), 0)


def test_all_sessions_share_one_logger_that_outlives_them(tmp_path: Path) -> None:
    trt = fresh()
    for name in ("first", "second"):
        with opened(tmp_path / name, trt):
            pass
    first, second = trt.logs
    assert first is second


@pytest.mark.parametrize(
    ("flavour", "precision", "wanted"), [("10", "int8", 1), ("10", "fp16", 0), ("rtx", "int8", 0)]
)
def test_our_plugins_are_registered_for_an_engine_that_calls_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flavour: str,
    precision: Precision,
    wanted: int,
) -> None:
    monkeypatch.setattr(plugins, "register_plugins", lambda module: module.script.note("register"))
    trt, plugin = fresh(flavour), PluginEntry(id="x", version="1", nodes=1, source_sha256="0")
    checked = checked_bundle(tmp_path, flavour, plugins=(plugin,))
    options = GpuOptions(cache_folder=tmp_path, driver=trt.cuda, tensorrt=trt)
    EngineBackend(replace(checked, precision=precision), signature(), 0, options).close()
    names = trt.script.names()
    assert names[: names.index("Runtime")].count("register") == wanted
    assert names.count("register") == wanted


def test_plugin_libraries_are_loaded_before_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_int8.runtime.checks.read_library", lambda *_: b"code")
    trt = fresh()
    checked = checked_bundle(tmp_path, "10", plugin_libraries={"my.so": "0"})
    backend = EngineBackend(checked, signature(), 0, GpuOptions(driver=trt.cuda, tensorrt=trt))
    backend.close()
    calls = trt.script.calls
    assert calls.index(("load_library", b"code")) < calls.index(("deserialize_cuda_engine",))


def test_a_plugin_library_that_does_not_load_is_an_error_that_frees_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_int8.runtime.checks.read_library", lambda *_: b"code")
    trt = fresh()
    trt.script.fail_name = "load_library"
    checked = checked_bundle(tmp_path, "10", plugin_libraries={"my.so": "0"})
    with pytest.raises(EngineError, match=r"my\.so' cannot be loaded"):
        EngineBackend(checked, signature(), 0, GpuOptions(driver=trt.cuda, tensorrt=trt))
    assert (trt.cuda.alive(), trt.cuda.retained, trt.plans) == ({}, 0, [])


def test_a_plugin_library_is_loaded_once_for_all_sessions_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_int8.runtime.checks.read_library", lambda *given: given[2].encode())
    trt = fresh()
    options = GpuOptions(driver=trt.cuda, tensorrt=trt)
    for number, names in enumerate((["a.so"], ["a.so", "b.so"], ["b.so", "a.so"])):
        libraries = {name: f"sha256 of {name}" for name in names}
        checked = checked_bundle(tmp_path / str(number), "10", plugin_libraries=libraries)
        EngineBackend(checked, signature(), 0, options).close()
    loaded = [call[1] for call in trt.script.calls if call[0] == "load_library"]
    assert loaded == [b"a.so", b"b.so"]


def test_a_plugin_library_that_did_not_load_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_int8.runtime.checks.read_library", lambda *_: b"code")
    trt = fresh()
    options = GpuOptions(driver=trt.cuda, tensorrt=trt)
    checked = checked_bundle(tmp_path, "10", plugin_libraries={"my.so": "0"})
    trt.script.fail_name = "load_library"
    with pytest.raises(EngineError, match="cannot be loaded"):
        EngineBackend(checked, signature(), 0, options)
    trt.script.fail_name = None
    EngineBackend(checked, signature(), 0, options).close()
    assert trt.script.count("load_library") == 2


def no_room(*_: object, **__: object) -> str:
    raise FileNotFoundError(2, "No usable temporary directory found")


def test_an_engine_without_plugin_libraries_needs_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", no_room)
    with opened(tmp_path, fresh()):
        pass


def test_plugin_libraries_without_a_temporary_folder_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", no_room)
    trt = fresh()
    checked = checked_bundle(tmp_path, "10", plugin_libraries={"my.so": "0"})
    with pytest.raises(PluginLibraryError, match="set TMPDIR"):
        EngineBackend(checked, signature(), 0, GpuOptions(driver=trt.cuda, tensorrt=trt))
    assert (trt.cuda.alive(), trt.cuda.retained) == ({}, 0)
