"""The traps of `tensorrt.plugin`: each guard speaks before a build, and guards a real failure."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.front_end.cases import Case, build
from tests.support.install_bindings import PLUGIN_VERSIONS
from tests.support.tensorrt_bindings import plugin_paths, run_or_skip

GELU = Case(
    "trt_int8::bias_gelu_quant",
    ("HALF", "HALF"),
    (("b", 48), (48,)),
    {"x_scale": 1.0, "output_scale": 0.02, "tanh": 0},
    ({"b": 3},),
)
_REGISTER = """
import tensorrt
from tests.kernels.front_end.builder import install
from trt_int8.engine.plugins import register_plugins
from trt_int8.errors import PluginError
install(tensorrt)
result = ""
try:
    register_plugins(tensorrt)
except PluginError as error:
    result = str(error)
"""
_UNGUARDED = """
import json
from trt_int8.engine.plugins import support
support._NUMPY_BREAKS_FROM = (99, 0)
from tests.kernels.front_end.child import run
result = run(json.loads({cases!r}))
"""
_WITHOUT_PREFERENCE = """
import json
import tensorrt
from tests.kernels.front_end.builder import Build, Layer, install
from trt_int8.engine.plugins import register_plugins
install(tensorrt)
register_plugins(tensorrt)
case = json.loads({case!r})
del case["sizes"]
result = ""
try:
    Build(tensorrt, Layer(**case, bounds={{"b": (1, 3)}}), "UNKNOWN")
except ValueError as error:
    result = str(error)
"""
_ON_A_CARD = """
import json
import tensorrt
from tests.kernels.front_end.builder import Build, Layer, install
from trt_int8.engine.plugins import register_plugins
from trt_int8.engine.plugins import registration
registration.LocalCards.current_sm = {sm}
install(tensorrt)
result = ""
case = json.loads({case!r})
del case["sizes"]
try:
    register_plugins(tensorrt)
    build = Build(tensorrt, Layer(**case, bounds={{"b": (1, 3)}}), "STRICT_AOT")
    result = build.tactics
    build.kernel({tactic})
except Exception as error:
    result = [result, str(error)]
"""
OLD_VERSIONS = [version for version in PLUGIN_VERSIONS if version < "11.4"]

with_new_numpy = pytest.mark.skipif(
    tuple(map(int, np.__version__.split(".")[:2])) < (2, 4), reason="needs NumPy 2.4 or newer"
)


@with_new_numpy
@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_a_numpy_that_breaks_attributes_is_refused_at_registration(
    version: str, stubs: Path
) -> None:
    assert run_or_skip(version, _REGISTER, stubs).startswith(
        f"NumPy {np.__version__} breaks the plugin attributes of TensorRT {version};"
    )


@with_new_numpy
@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_without_that_guard_the_build_would_fail_on_an_attribute(version: str, stubs: Path) -> None:
    code = _UNGUARDED.format(cases=json.dumps([asdict(GELU)]))
    (result,) = run_or_skip(version, code, stubs)
    assert result["stage"] == "build"
    assert result["error"].startswith("TypeError: only 0-dimensional arrays can be converted")


@pytest.mark.parametrize("version", PLUGIN_VERSIONS)
def test_a_numpy_that_fits_is_let_through(version: str, stubs: Path) -> None:
    assert run_or_skip(version, _REGISTER, stubs, plugin_paths(version)) == ""


def test_tensorrt_8_is_refused(stubs: Path) -> None:
    text = run_or_skip("8.6.1", _REGISTER, stubs)
    assert "8.6.1 cannot take kernels from Python; wanted TensorRT 10.9 or newer" in text


@pytest.mark.parametrize("version", PLUGIN_VERSIONS)
def test_a_network_without_a_preference_cannot_take_plugins_that_have_both_ways(
    version: str, stubs: Path
) -> None:
    # Why `adapter.network_flags` sets PREFER_AOT_PYTHON_PLUGINS.
    code = _WITHOUT_PREFERENCE.format(case=json.dumps(asdict(GELU)))
    text = run_or_skip(version, code, stubs, plugin_paths(version))
    assert "has both AOT and JIT implementations" in text


def first(version: str, case: Case, stubs: Path) -> dict[str, Any]:
    (result,) = build(version, [case], stubs)
    return result


def case(**changes: Any) -> Case:
    return Case(**{**asdict(GELU), **changes})


@pytest.mark.parametrize("version", PLUGIN_VERSIONS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": ((3, "b"), (48,))}, "dimension -1 of 'x' is not known at build time"),
        ({"kinds": ("FLOAT", "HALF")}, "input 'x' is float32 with 2 dimensions"),
        ({"shapes": (("b", 48), (1, 48))}, "input 'bias' is float16 with 2 dimensions"),
        ({"shapes": (("b", 48), (24,))}, "'bias' is [24] beside 'x' [?, 48]; wanted [48]"),
        ({"sizes": ({"b": 2**30},)}, "got 1073741824 rows of 48"),
        (
            {"attributes": {"x_scale": 1.0, "output_scale": 0.02, "tanh": 2}},
            "attribute 'tanh' is 2; wanted 0 or 1",
        ),
        (
            {"attributes": {"x_scale": 1.0, "output_scale": -0.02, "tanh": 0}},
            "got output_scale = -0.02",
        ),
        (
            {"attributes": {"x_scale": 1.0, "tanh": 0}},
            "Unexpected schema (ITensor, ITensor, x_scale, tanh)",
        ),
    ],
)
def test_what_a_kernel_does_not_do_ends_the_build_with_a_reason(
    version: str, changes: dict[str, Any], message: str, stubs: Path
) -> None:
    result = first(version, case(**changes), stubs)
    assert message in result["error"]
    assert result["stage"] == "build"


@pytest.mark.parametrize(
    ("sm", "tactics", "tactic", "message"),
    [
        ("lambda _: 75", [75], 80, "TensorRT chose tactic 80; wanted one of (75,)"),
        ("lambda _: 86", [75, 80], 0, "TensorRT chose tactic 0; wanted one of (75, 80)"),
        ("lambda _: 61", "", 75, "the card is an SM61; wanted SM75 or newer"),
    ],
)
@pytest.mark.parametrize("version", PLUGIN_VERSIONS)
def test_a_card_gets_no_kernel_that_it_cannot_run(
    version: str, sm: str, tactics: Any, tactic: int, message: str, stubs: Path
) -> None:
    code = _ON_A_CARD.format(case=json.dumps(asdict(GELU)), sm=sm, tactic=tactic)
    offered, error = run_or_skip(version, code, stubs, plugin_paths(version))
    assert offered == tactics
    assert message in error
