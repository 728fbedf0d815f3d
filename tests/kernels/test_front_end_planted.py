"""Mistakes in a plugin's definition, each planted and each caught: by the front end, or by the run.

The CUDA sources are right here; what is wrong is what the plugin tells TensorRT about them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.front_end.cases import Case, build
from tests.kernels.front_end.mutations import MUTATIONS
from tests.kernels.front_end.problems import PROBLEMS, solve
from tests.kernels.front_end.runs import EngineKernel, run
from tests.kernels.report import KernelFault
from tests.kernels.tools import needs_nvrtc
from tests.support.install_bindings import PLUGIN_VERSIONS

pytestmark = needs_nvrtc

# Heads of 80 fill their rows of shared memory, so that no byte of it is spare.
HALF, TABLE, ATTENTION = "gelu", "gelu, table", "attention, causal, half"
CROSS = "attention"  # as many keys as queries would hide an exchange of the two
NEWEST = PLUGIN_VERSIONS[-1]


class Differs(Exception):  # noqa: N818 (an outcome of a run, told apart from faults)
    """The run ended without a fault and gave other numbers than the model."""


def check(layer: dict[str, Any], case: Case) -> None:
    """Run the last sizes of a case as the engine would.

    Raises:
        KernelFault: the run broke a rule.
        Differs: it gave wrong shapes or numbers.
    """
    wanted = solve(case, case.sizes[-1])
    shapes = layer["output_shapes"][-1]
    outputs = list(zip(layer["output_kinds"], shapes, strict=True))
    for kernel in layer["kernels"].values():
        held = EngineKernel(kernel["name"], kernel["ptx"], kernel["launches"][-1])
        for got, output in zip(run(held, wanted.inputs, outputs), wanted.outputs, strict=True):
            if got.shape != output.shape or not np.array_equal(got, output):
                raise Differs


# What is planted, where it shows best, the error, and part of its text.
IN_THE_RUN = [
    ("floor grid", HALF, KernelFault, "output"),
    ("swapped arguments", HALF, KernelFault, ""),
    ("swapped arguments", CROSS, (KernelFault, Differs), ""),
    ("missing argument", HALF, KernelFault, "launch"),
    ("missing argument", ATTENTION, KernelFault, "launch"),
    ("shared memory 16 bytes too small", TABLE, KernelFault, "out_of_bounds"),
    ("shared memory 16 bytes too small", ATTENTION, KernelFault, "out_of_bounds"),
    ("block of 64", HALF, KernelFault, "output"),
    ("block of 64", ATTENTION, KernelFault, ""),
    ("wrong output shape", HALF, KernelFault, "output"),
    ("wrong output shape", ATTENTION, KernelFault, "output"),
    ("kernel name typo", HALF, KernelFault, "load"),
]
BY_THE_FRONT_END = {
    "attribute name typo": ("register", "ValueError: Unexpected attribute 'output_scales'"),
    "ragged types": ("build", "IndexError: list index out of range"),
    "types of another network": ("build", "BuildError: no supported combination has"),
    "argument without a width": ("build", "TypeError: Extra args must be a 'tensorrt.plugin.SymI"),
    "attribute subset": ("build", "TypeError: <lambda>() takes 6 positional arguments but 7"),
}


# With one version only: `test_front_end.py` sees that all of them hand launches on alike.
@pytest.mark.parametrize(("mutation", "problem", "error", "kind"), IN_THE_RUN)
def test_a_wrong_launch_is_caught_when_it_runs(
    mutation: str, problem: str, error: Any, kind: str, stubs: Path
) -> None:
    case = PROBLEMS[problem]
    (layer,) = build(NEWEST, [case], stubs, mutation)
    assert "error" not in layer, layer["error"]
    with pytest.raises(error) as caught:
        check(layer, case)
    assert not kind or caught.value.kind == kind, str(caught.value)


@pytest.mark.parametrize("version", PLUGIN_VERSIONS)
@pytest.mark.parametrize("mutation", BY_THE_FRONT_END)
def test_a_wrong_definition_is_caught_before_there_is_an_engine(
    version: str, mutation: str, stubs: Path
) -> None:
    stage, text = BY_THE_FRONT_END[mutation]
    (layer,) = build(version, [PROBLEMS[HALF]], stubs, mutation)
    assert (layer["stage"], layer["error"][: len(text)]) == (stage, text)


@pytest.mark.parametrize("problem", [HALF, TABLE, ATTENTION])
def test_without_a_planted_mistake_nothing_is_caught(problem: str, stubs: Path) -> None:
    (layer,) = build(NEWEST, [PROBLEMS[problem]], stubs)
    check(layer, PROBLEMS[problem])


def test_every_mistake_has_a_row() -> None:
    assert {row[0] for row in IN_THE_RUN} | set(BY_THE_FRONT_END) == set(MUTATIONS)
