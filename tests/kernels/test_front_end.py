"""Every plugin through NVIDIA's own plugin front end, its PTX run and compared with the models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.front_end.cases import build
from tests.kernels.front_end.child import POINTER_BASE, STREAM
from tests.kernels.front_end.problems import PROBLEMS, solve
from tests.kernels.front_end.runs import EngineKernel, run
from tests.kernels.tools import needs_nvrtc
from tests.support.install_bindings import PLUGIN_VERSIONS
from tests.support.tensorrt_bindings import plugin_paths, run_or_skip
from trt_int8.plugins.kernel import KERNEL_SMS
from trt_int8.plugins.signatures import signatures

pytestmark = needs_nvrtc

Layers = Mapping[str, dict[str, Any]]

every_version = pytest.mark.parametrize("version", PLUGIN_VERSIONS)
every_problem = pytest.mark.parametrize("name", PROBLEMS)


@pytest.fixture(scope="module")
def layers(stubs: Path) -> Callable[[str], Layers]:
    """All problems as built with one version, once."""
    known: dict[str, Layers] = {}

    def of(version: str) -> Layers:
        if version not in known:
            results = build(version, list(PROBLEMS.values()), stubs)
            known[version] = dict(zip(PROBLEMS, results, strict=True))
        return known[version]

    return of


@pytest.fixture(scope="module")
def answers() -> dict[str, list[NDArray[Any]]]:
    """Outputs by all that they depend on: versions that give equal kernels share a run."""
    return {}


@every_version
@every_problem
def test_what_an_engine_would_hold_computes_the_model(
    version: str,
    name: str,
    layers: Callable[[str], Layers],
    answers: dict[str, list[NDArray[Any]]],
) -> None:
    layer, case = layers(version)[name], PROBLEMS[name]
    assert layer["tactics"] == list(KERNEL_SMS)
    for tactic in layer["tactics"]:
        kernel = layer["kernels"][str(tactic)]
        assert f".target sm_{tactic}" in kernel["ptx"]
        for index, sizes in enumerate(case.sizes):
            wanted = solve(case, sizes)
            shapes = layer["output_shapes"][index]
            assert shapes == [list(output.shape) for output in wanted.outputs]
            outputs = list(zip(layer["output_kinds"], shapes, strict=True))
            launch = kernel["launches"][index]
            key = json.dumps([name, index, kernel, launch, outputs])
            if key not in answers:
                held = EngineKernel(kernel["name"], kernel["ptx"], launch)
                answers[key] = run(held, wanted.inputs, outputs)
            for got, output in zip(answers[key], wanted.outputs, strict=True):
                np.testing.assert_array_equal(got, output)


@every_version
@every_problem
def test_the_jit_fallback_launches_what_the_engine_would_hold(
    version: str, name: str, layers: Callable[[str], Layers]
) -> None:
    layer, case = layers(version)[name], PROBLEMS[name]
    count = len(case.kinds)
    pointers = [POINTER_BASE + index for index in range(count + len(layer["output_kinds"]))]
    wanted = [
        {
            "entry": kernel["name"],
            "ptx": kernel["ptx"],
            "grid": launch["grid"],
            "block": launch["block"],
            "shared_bytes": launch["shared_bytes"],
            "stream": STREAM,
            "arguments": [*pointers[:count], *launch["integers"], *pointers[count:]],
            "extra": 0,
        }
        for kernel in layer["kernels"].values()
        for launch in kernel["launches"]
    ]
    assert layer["jit"] == wanted


@every_version
def test_attributes_of_an_onnx_node_arrive_as_they_are(
    version: str, layers: Callable[[str], Layers]
) -> None:
    for name, layer in layers(version).items():
        given = PROBLEMS[name].attributes
        rounded = {k: v if isinstance(v, int) else float(np.float32(v)) for k, v in given.items()}
        assert layer["parsed"] == rounded


_ALL = """
import tensorrt
from tests.kernels.front_end.builder import install
from trt_int8.engine.plugins import register_plugins
registry = install(tensorrt)
result = [register_plugins(tensorrt), sorted("::".join((k[2], k[0])) for k in registry.creators)]
"""


@every_version
def test_every_form_is_registered(version: str, stubs: Path) -> None:
    ids = [signature.plugin_id for signature in signatures()]
    assert run_or_skip(version, _ALL, stubs, plugin_paths(version)) == [ids, sorted(ids)]
