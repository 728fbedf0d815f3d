"""Plant a bug and say what a layer makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kernels.layers import run_on
from tests.kernels.planted.bugs import Outcome, PlantedBug
from tests.kernels.planted.cases import CASES, Run
from tests.kernels.report import KernelFault, RunReport
from trt_int8.plugins.kernel import kernel_folder

# Runs a launch on the layer under test, in one of its schedules; the outputs are filled.
Runner = Callable[[Run], RunReport]
KERNEL_FOLDER = kernel_folder()


def planted_folder(bug: PlantedBug, folder: Path) -> Path:
    """A copy of the kernels' sources with the bug in it.

    Raises:
        AssertionError: the text to replace does not stand exactly once in the source.
    """
    copy = folder / "cuda"
    shutil.copytree(KERNEL_FOLDER, copy)
    if bug.file is not None:
        source = (copy / bug.file).read_text(encoding="utf-8")
        count = source.count(bug.text)
        assert count == 1, f"{bug.file} has {bug.text!r} {count} times: mend planted/bugs.py"
        (copy / bug.file).write_text(source.replace(bug.text, bug.replacement), encoding="utf-8")
    return copy


def healthy_outputs(bug: PlantedBug) -> list[NDArray[Any]]:
    """What the case gives without the bug; call it before the bug is planted."""
    run = CASES[bug.case](bug.sm)
    run_on("emulator", run.launch, run.arguments)
    return run.outputs


def outcome(bug: PlantedBug, healthy: list[NDArray[Any]], runners: list[Runner]) -> Outcome:
    """What the first of the layer's schedules that notices anything says; else "nothing".

    Args:
        bug: already planted.
        healthy: outputs without it.
        runners: one for each schedule.
    """
    for runner in runners:
        run = CASES[bug.case](bug.sm)
        shared_bytes = run.launch.shared_bytes - bug.missing_shared_bytes
        run = replace(run, launch=replace(run.launch, shared_bytes=shared_bytes))
        try:
            report = runner(run)
        except KernelFault as fault:
            return fault.kind
        pairs = zip(run.outputs, healthy, strict=True)
        if not all(np.array_equal(*pair, equal_nan=False) for pair in pairs):
            return "wrong"
        if report.shared_wavefronts_per_request.get("ldmatrix", 1.0) > 1.0:
            return "conflicts"
    return "nothing"
