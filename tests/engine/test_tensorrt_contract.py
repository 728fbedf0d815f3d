"""The adapter against NVIDIA's own Python bindings, several versions, with no GPU."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import cast

import pytest

from tests.support.tensorrt_bindings import BINDINGS_VERSIONS, run_or_skip
from tests.support.trt_api import Api, Signature, describe, signatures
from tests.support.trt_contract import faults
from trt_int8.engine import adapter
from trt_int8.engine.plugins import libraries

SOURCE = inspect.getsource(adapter) + inspect.getsource(libraries)
_DESCRIBE = """
import tensorrt
from tests.support.trt_api import describe
result = describe(tensorrt)
"""
_FLAGS = """
import tensorrt as trt
from trt_int8.engine.adapter import network_flags, precision_flags
number = network_flags(trt)
members = trt.NetworkDefinitionCreationFlag.__members__.items()
result = [
    sorted(name for name, flag in members if number >> int(flag) & 1),
    sorted(flag.name for flag in precision_flags(trt)),
]
"""
_LOGGER = """
import tensorrt as trt
from trt_int8.engine.adapter import _make_logger
logger = _make_logger(trt)
assert isinstance(logger, trt.ILogger)
for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
    logger.log(getattr(trt.ILogger.Severity, name), name + " \\n text")
result = [logger.errors, logger.messages]
"""
_MONITOR = """
import tensorrt as trt
from trt_int8.engine.adapter import ProgressSink, _make_monitor
seen = []
class Sink(ProgressSink):
    def phase(self, name, parent, steps): seen.append([name, parent, steps])
    def step(self, name, step): seen.append([name, step]); return step < 1
    def finish(self, name): seen.append([name])
monitor = _make_monitor(trt, Sink())
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start(phase_name="a", parent_phase=None, num_steps=3)
answers = [monitor.step_complete(phase_name="a", step=n) for n in (0, 1)]
monitor.phase_finish(phase_name="a")
result = [seen, answers]
"""
FLAGS = {
    "8.6.1": [["EXPLICIT_BATCH"], ["FP16", "INT8"]],
    "10.9.0.34": [["EXPLICIT_BATCH", "PREFER_AOT_PYTHON_PLUGINS", "STRONGLY_TYPED"], []],
    "10.13.3.9": [["EXPLICIT_BATCH", "PREFER_AOT_PYTHON_PLUGINS", "STRONGLY_TYPED"], []],
    "11.4.0.106": [["PREFER_AOT_PYTHON_PLUGINS", "STRONGLY_TYPED"], []],
}
MONITOR_PARAMETERS = {
    "phase_start": ["phase_name", "parent_phase", "num_steps"],
    "step_complete": ["phase_name", "step"],
    "phase_finish": ["phase_name"],
}
# What the module's author meant to call; the checker finds the rest by itself.
CALLED = (
    ("IOptimizationProfile.set_shape", ["input", "min", "opt", "max"]),
    ("IBuilderConfig.create_timing_cache", ["serialized_timing_cache"]),
    ("IBuilderConfig.set_timing_cache", ["cache", "ignore_mismatch"]),
    ("OnnxParser.parse_from_file", ["model"]),
    ("Builder.build_serialized_network", ["network", "config"]),
    ("IPluginRegistry.load_library", ["plugin_path"]),
    ("EngineInspector.get_engine_information", ["format"]),
)

every_version = pytest.mark.parametrize("version", BINDINGS_VERSIONS)
with_monitor = pytest.mark.parametrize("version", [v for v in BINDINGS_VERSIONS if v[0] != "8"])
pytestmark = pytest.mark.xdist_group("bindings")


@pytest.fixture(scope="module")
def apis(stubs: Path) -> dict[str, Api]:
    return {}


@pytest.fixture
def api(version: str, stubs: Path, apis: dict[str, Api]) -> Api:
    if version not in apis:
        apis[version] = cast(Api, run_or_skip(version, _DESCRIBE, stubs))
    return apis[version]


@every_version
def test_every_name_and_call_of_the_adapter_exists_in_this_version(api: Api) -> None:
    assert faults(SOURCE, api) == []


def test_every_name_and_call_of_the_adapter_exists_in_tensorrt_rtx() -> None:
    assert faults(SOURCE, describe(pytest.importorskip("tensorrt_rtx"))) == []


@every_version
@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("config.add_optimization_profile(made)", "config.add_profile(made)", "add_profile"),
        ("trt.ProfilingVerbosity.DETAILED", "trt.ProfilingVerbosity.LOTS", "LOTS"),
        ("self._trt.Runtime(log)", "self._trt.Runtime2(log)", "Runtime2"),
        ("error.desc()", "error.describe()", "describe"),
        ("inspector.get_engine_information", "inspector.get_info", "get_info"),
        ("registry.load_library", "registry.load_everything", "load_everything"),
        ("ignore_mismatch=False", "ignore=False", "does not fit"),
        ("shape.name, shape.min, shape.opt,", "shape.name, shape.opt,", "does not fit"),
        ("trt.OnnxParser(network, log)", "trt.OnnxParser(network)", "does not fit"),
        ('if hasattr(config, "set_compute_capability")', "if sm", "num_compute_capabilities"),
        (" if hasattr(flags, name))", ")", "without a hasattr"),
    ],
)
def test_a_name_or_call_that_does_not_exist_is_found(
    api: Api, old: str, new: str, fault: str
) -> None:
    assert old in SOURCE
    assert fault in "\n".join(faults(SOURCE.replace(old, new), api))


@pytest.mark.parametrize("version", ["8.6.1"])
def test_dropping_the_guard_of_the_progress_monitor_is_found_on_8_6(api: Api) -> None:
    unguarded = SOURCE.replace('if hasattr(config, "progress_monitor")', "if True")
    assert "has no 'IProgressMonitor'" in "\n".join(faults(unguarded, api))


@pytest.mark.parametrize("version", ["10.13.3.9"])
def test_a_value_that_cannot_be_followed_is_a_fault(api: Api) -> None:
    code = "def f(trt: Any, thing: Any) -> Any:\n    return thing.anything\n"
    assert "cannot follow thing" in faults(code, api)[0]


@pytest.mark.parametrize("version", ["11.4.0.106"])
def test_the_int8_flag_that_version_11_dropped_is_found(api: Api) -> None:
    assert "BuilderFlag has no 'INT8'" in faults("flag = trt.BuilderFlag.INT8\n", api)[0]


def test_the_checker_sees_the_calls_the_adapter_is_made_of() -> None:
    called = {ast.unparse(n.func) for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.Call)}
    methods = {name.split(".")[-1] for name in called}
    assert {name.split(".")[1] for name, _ in CALLED} <= methods


@every_version
@pytest.mark.parametrize(("method", "parameters"), CALLED)
def test_the_docstring_signature_takes_the_arguments_that_are_passed(
    api: Api, method: str, parameters: list[str]
) -> None:
    assert parameters in [signature["needed"] for signature in api["signatures"][method]]


@every_version
def test_flags_have_the_right_members_by_name(version: str, stubs: Path) -> None:
    assert run_or_skip(version, _FLAGS, stubs) == FLAGS[version]


@every_version
def test_the_logger_works_on_the_genuine_base_class(version: str, stubs: Path) -> None:
    errors, messages = run_or_skip(version, _LOGGER, stubs)
    assert errors == ["INTERNAL_ERROR text", "ERROR text"]
    assert len(messages) == 5


@with_monitor
def test_the_progress_monitor_works_on_the_genuine_base_class(version: str, stubs: Path) -> None:
    seen, answers = run_or_skip(version, _MONITOR, stubs)
    assert seen == [["a", None, 3], ["a", 0], ["a", 1], ["a"]]
    assert answers == [True, False]


@with_monitor
@pytest.mark.parametrize(("method", "parameters"), MONITOR_PARAMETERS.items())
def test_the_progress_monitor_is_called_with_these_parameters(
    api: Api, method: str, parameters: list[str]
) -> None:
    genuine = api["signatures"][f"IProgressMonitor.{method}"]
    functions = [n for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.FunctionDef)]
    ours = next(f for f in functions if f.name == method)
    assert [signature["names"] for signature in genuine] == [parameters]
    assert [a.arg for a in ours.args.args] == ["self", *parameters]


def test_a_docstring_with_overloads_gives_each_of_them() -> None:
    doc = (
        "f(*args, **kwargs)\n1. f(self: a.B, x: Dict[int, str], y: int = 3) -> a.C\n2. f() -> None"
    )
    first = Signature(names=["x", "y"], needed=["x"], returns="a.C")
    assert signatures(doc) == [first, Signature(names=[], needed=[], returns="None")]
