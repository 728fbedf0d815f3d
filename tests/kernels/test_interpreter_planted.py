"""Planted bugs are seen by the interpreter, in the PTX text that the compiler makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.interpreter import Interpreter
from tests.kernels.planted.bugs import PLANTED, PlantedBug
from tests.kernels.planted.cases import CASES, Run
from tests.kernels.planted.run import outcome, planted_folder
from tests.kernels.report import RunReport
from tests.kernels.tools import needs_gxx, needs_nvrtc
from trt_int8.plugins import compile as plugin_compile

pytestmark = [needs_gxx, needs_nvrtc]

BUGS = [bug for bug in PLANTED if "interpreter" in bug.seen]


def interpret(run: Run) -> RunReport:
    return Interpreter().run(run.launch, run.arguments)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_the_interpreter_sees_what_the_table_says(
    bug: PlantedBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = CASES[bug.case](bug.sm)
    report = interpret(healthy)
    assert report.shared_wavefronts_per_request.get("ldmatrix", 1.0) == 1.0
    folder = planted_folder(bug, tmp_path)
    monkeypatch.setattr(plugin_compile, "kernel_folder", lambda: folder)
    assert outcome(bug, healthy.outputs, [interpret]) == bug.seen["interpreter"]
