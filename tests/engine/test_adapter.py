from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.fake_tensorrt import FakeTensorRT, ParserError, Severity, _Config
from trt_int8.engine import adapter
from trt_int8.engine.adapter import Adapter, ProgressSink
from trt_int8.engine.worker import EventSink
from trt_int8.errors import CancelledError, EngineError, TargetError
from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.shapes import InputShape

SHAPE = InputShape(name="ids", min=(1, 7), opt=(3, 19), max=(5, 33))


def request(**changes: Any) -> BuildRequest:
    base = BuildRequest(
        flavour=Flavour.TENSORRT,
        onnx_path="folder/model.onnx",
        engine_path="e",
        evidence_path="l",
        sm=None,
        profiles=((SHAPE,),),
    )
    return base.model_copy(update=changes)


def build(trt: FakeTensorRT, sink: ProgressSink | None = None, **changes: Any) -> tuple[Any, str]:
    flavour = Flavour.RTX if trt.rtx else Flavour.TENSORRT
    made = Adapter(flavour, cast(ModuleType, trt))
    return made.build(request(flavour=flavour, **changes), sink or ProgressSink())


def test_a_build_gives_the_plan_and_the_inspectors_json() -> None:
    assert build(FakeTensorRT()) == (b"plan", "layers as JSON")


def test_tensorrt_rtx_gives_the_layers_block_of_its_log() -> None:
    trt = FakeTensorRT(rtx=True)
    trt.log_on_build = [(Severity.VERBOSE, "noise"), (Severity.VERBOSE, "Layers:\nName: a")]
    assert build(trt, sm=75) == (b"plan", "Layers:\nName: a")


def test_each_shape_is_set_as_min_opt_max() -> None:
    trt = FakeTensorRT()
    build(trt)
    assert trt.argument("set_shape") == ("ids", (1, 7), (3, 19), (5, 33))


def test_a_detailed_listing_is_asked_for() -> None:
    trt = FakeTensorRT()
    build(trt)
    assert trt.argument("build_serialized_network").profiling_verbosity == "DETAILED"


def test_networks_are_strongly_typed_and_set_no_precision_flag() -> None:
    trt = FakeTensorRT()
    build(trt)
    assert trt.argument("create_network") == 0b11
    assert "set_flag" not in trt.names()


def test_where_networks_cannot_be_strongly_typed_both_precisions_are_allowed() -> None:
    trt = FakeTensorRT()
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    build(trt)
    assert [call[1] for call in trt.calls if call[0] == "set_flag"] == ["FP16", "INT8"]


def test_a_parse_failure_names_the_node_and_quotes_the_parser() -> None:
    trt = FakeTensorRT(parse_errors=[ParserError("/enc/Mod", "no importer"), ParserError("b", "c")])
    match = r"cannot parse 'model.onnx' \(/enc/Mod: no importer; b: c\)"
    with pytest.raises(EngineError, match=match):
        build(trt)
    assert "build_serialized_network" not in trt.names()


def test_a_parser_that_knows_the_operator_names_it() -> None:
    error = SimpleNamespace(
        node_name=lambda: "/enc/Mod", node_operator=lambda: "Mod", desc=lambda: "no importer"
    )
    trt = FakeTensorRT(parse_errors=[cast(ParserError, error)])
    with pytest.raises(EngineError, match=r"\(/enc/Mod \(Mod\): no importer\)"):
        build(trt)


def test_a_parser_without_node_names_gives_the_nodes_number() -> None:
    error = SimpleNamespace(node=lambda: 7, desc=lambda: "no importer")
    trt = FakeTensorRT(parse_errors=[cast(ParserError, error)])
    with pytest.raises(EngineError, match=r"\(node 7: no importer\)"):
        build(trt)


def test_only_the_first_three_parser_errors_are_shown() -> None:
    trt = FakeTensorRT(parse_errors=[ParserError(f"n{i}", "bad") for i in range(9)])
    with pytest.raises(EngineError, match=r"\(n0: bad; n1: bad; n2: bad\)"):
        build(trt)


def test_a_build_failure_quotes_the_errors_of_the_log() -> None:
    trt = FakeTensorRT(plan=None)
    trt.log_on_build = [(Severity.WARNING, "slow"), (Severity.ERROR, "no  kernel\n for SM75")]
    match = r"10.99 built no engine from 'model.onnx' .*\(no kernel for SM75\)"
    with pytest.raises(EngineError, match=match):
        build(trt)


def test_a_build_failure_without_a_logged_error_says_so() -> None:
    with pytest.raises(EngineError, match="no reason in its log"):
        build(FakeTensorRT(plan=None))


def test_a_cancelled_build_is_no_engine_error(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    with (tmp_path / "events").open("w") as events:
        sink = EventSink(events)
        sink.cancelled = True
        trt.during_build = lambda monitor: monitor.step_complete("phase", 0)
        with pytest.raises(CancelledError, match="the build was interrupted"):
            build(trt, sink)


def test_progress_of_the_builder_reaches_the_sink() -> None:
    seen: list[object] = []
    sink = ProgressSink()
    sink.phase = lambda *a: seen.append(a)  # type: ignore[method-assign]
    sink.finish = lambda *a: seen.append(a)  # type: ignore[method-assign]
    trt = FakeTensorRT()

    def during(monitor: Any) -> bool:
        monitor.phase_start("outer", None, 4)
        answer = monitor.step_complete("outer", 0)
        monitor.phase_finish("outer")
        return bool(answer)

    trt.during_build = during
    build(trt, sink)
    assert seen == [("outer", None, 4), ("outer",)]


def test_the_timing_cache_is_read_and_rewritten(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"old")
    trt = FakeTensorRT()
    build(trt, timing_cache=str(cache))
    assert trt.argument("create_timing_cache") == b"old"
    assert ("set_timing_cache", b"old", False) in trt.calls
    assert cache.read_bytes() == b"old+tuned"
    assert list(tmp_path.iterdir()) == [cache]


def test_a_new_timing_cache_starts_empty(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    build(trt, timing_cache=str(tmp_path / "new"))
    assert trt.argument("create_timing_cache") == b""
    assert (tmp_path / "new").read_bytes() == b"+tuned"


def test_a_failed_write_keeps_the_old_timing_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        build(FakeTensorRT(), timing_cache=str(cache))
    assert cache.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [cache]


def test_a_failed_build_leaves_the_timing_cache_alone(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"old")
    with pytest.raises(EngineError, match="built no engine"):
        build(FakeTensorRT(plan=None), timing_cache=str(cache))
    assert cache.read_bytes() == b"old"


def test_a_timing_cache_of_another_machine_does_not_spoil_the_engine(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another card")
    trt = FakeTensorRT()
    trt.cache_fits = False
    assert build(trt, timing_cache=str(cache))[0] == b"plan"
    attached = [call[1] for call in trt.calls if call[0] == "set_timing_cache"]
    assert attached == [b"of another card", b""]
    assert cache.read_bytes() == b"+tuned"


def test_a_config_that_gives_no_timing_cache_back_keeps_the_old_one(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"old")
    trt = FakeTensorRT()
    trt.keeps_cache = False
    assert build(trt, timing_cache=str(cache))[0] == b"plan"
    assert cache.read_bytes() == b"old"


def test_the_folder_of_the_timing_cache_is_made_before_the_build(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    cache = tmp_path / "a" / "b" / "timing.cache"
    seen: list[bool] = []

    def during(monitor: object) -> bool:
        seen.append(cache.parent.is_dir())
        return True

    trt.during_build = during
    build(trt, timing_cache=str(cache))
    assert seen == [True]
    assert cache.read_bytes() == b"+tuned"


def test_tensorrt_rtx_leaves_the_timing_cache_alone(tmp_path: Path) -> None:
    trt = FakeTensorRT(rtx=True)
    build(trt, sm=75, timing_cache=str(tmp_path / "none"))
    assert "create_timing_cache" not in trt.names()
    assert list(tmp_path.iterdir()) == []


def test_plugins_are_loaded_in_order_before_parsing() -> None:
    trt = FakeTensorRT()
    build(trt, plugin_libraries=("a.so", "b.so"))
    wanted = ["init_libnvinfer_plugins", "load_library", "load_library", "create_network"]
    assert trt.names()[:4] == wanted
    assert [call[1] for call in trt.calls if call[0] == "load_library"] == ["a.so", "b.so"]
    assert trt.names().index("parse_from_file") > 3


def test_a_plugin_library_that_cannot_be_loaded_is_an_error_that_names_it() -> None:
    trt = FakeTensorRT()
    trt.library_loads = False
    with pytest.raises(EngineError, match=r"'broken\.so' cannot be loaded \(undefined symbol\)"):
        build(trt, plugin_libraries=("broken.so",))


@pytest.mark.parametrize(("uses", "wanted"), [(True, 1), (False, 0)])
def test_our_plugins_are_registered_before_parsing_where_the_file_has_them(
    uses: bool, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT()
    monkeypatch.setattr(adapter, "register_plugins", lambda module: module.note("register"))
    build(trt, uses_plugins=uses)
    names = trt.names()
    assert names.count("register") == wanted
    assert "register" not in names[names.index("parse_from_file") :]


@pytest.mark.parametrize("sm", [75, 80])
def test_tensorrt_rtx_builds_for_one_named_target(sm: int) -> None:
    trt = FakeTensorRT(rtx=True)
    build(trt, sm=sm)
    assert ("set_compute_capability", f"SM{sm}", 0) in trt.calls
    assert trt.argument("build_serialized_network").num_compute_capabilities == 1


@pytest.mark.parametrize("sm", [90, None])
def test_a_target_that_tensorrt_rtx_does_not_list_is_refused(sm: int | None) -> None:
    with pytest.raises(TargetError, match=f"TensorRT-RTX 10.99 has no target SM{sm}"):
        build(FakeTensorRT(rtx=True), sm=sm)


def test_the_target_is_checked_before_the_model_is_read() -> None:
    trt = FakeTensorRT(rtx=True)
    with pytest.raises(TargetError):
        build(trt, sm=90)
    assert trt.calls == []


def test_a_builder_that_finds_no_gpu_is_an_engine_error() -> None:
    trt = FakeTensorRT()
    trt.has_gpu = False
    match = r"10.99 cannot start \(CUDA initialization failure .*35\); wanted an NVIDIA GPU"
    with pytest.raises(EngineError, match=match):
        build(trt)


def test_tensorrt_refuses_another_card_than_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "local_sm", lambda: 89)
    with pytest.raises(TargetError, match=r"card in this machine \(SM89\), not for SM75"):
        build(FakeTensorRT(), sm=75)


def test_tensorrt_builds_for_the_local_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "local_sm", lambda: 89)
    assert build(FakeTensorRT(), sm=89)[0] == b"plan"


def test_an_engine_that_cannot_be_loaded_again_is_an_engine_error() -> None:
    trt = FakeTensorRT()
    trt.plan_loads = False
    with pytest.raises(EngineError, match=r"cannot load the engine .*\(out of memory\)"):
        build(trt)


def test_profiles_are_added_in_their_order() -> None:
    trt = FakeTensorRT()
    longer = InputShape(name="ids", min=(1, 34), opt=(3, 40), max=(5, 99))
    build(trt, profiles=((SHAPE,), (longer,)))
    calls = [call for call in trt.calls if call[0] in ("set_shape", "add_optimization_profile")]
    assert [name for name, *_ in calls] == ["set_shape", "add_optimization_profile"] * 2
    assert [call[1][3] for call in calls[::2]] == [(5, 33), (5, 99)]
    assert calls[1][1] is not calls[3][1]


def test_a_profile_that_tensorrt_does_not_take_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Config, "add_optimization_profile", lambda self, profile: -1)
    with pytest.raises(EngineError, match=r"refuses the profile ids 1x7 / 3x19 / 5x33 \(min"):
        build(FakeTensorRT())
