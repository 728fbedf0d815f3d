"""Planted bugs are seen by the emulator, plain or sanitised, or are known not to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels import emulator_build
from tests.kernels.emulator import Emulator
from tests.kernels.emulator_build import Sanitizer
from tests.kernels.planted.bugs import PLANTED, PlantedBug
from tests.kernels.planted.cases import CASES
from tests.kernels.planted.run import Runner, healthy_outputs, outcome, planted_folder
from tests.kernels.tools import needs_gxx

pytestmark = needs_gxx

SCHEDULES = range(5)


def runner(sanitizer: Sanitizer | None, seed: int) -> Runner:
    return lambda run: Emulator(sanitizer).run(run.launch, run.arguments, seed=seed)


def named(bugs: list[PlantedBug]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bug", bugs, ids=[bug.name for bug in bugs])


@named([bug for bug in PLANTED if "emulator" in bug.seen])
def test_the_plain_emulator(
    bug: PlantedBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = healthy_outputs(bug)
    folder = planted_folder(bug, tmp_path)
    monkeypatch.setattr(emulator_build, "kernel_folder", lambda: folder)
    runners = [runner(None, seed) for seed in SCHEDULES]
    assert outcome(bug, healthy, runners) == bug.seen["emulator"]


@pytest.mark.sanitizer
@named([bug for bug in PLANTED if "address" in bug.seen])
def test_the_address_sanitizer(
    bug: PlantedBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = healthy_outputs(bug)
    folder = planted_folder(bug, tmp_path)
    monkeypatch.setattr(emulator_build, "kernel_folder", lambda: folder)
    runners = [runner("address", seed) for seed in SCHEDULES]
    assert outcome(bug, healthy, runners) == bug.seen["address"]


@pytest.mark.sanitizer
@named([bug for bug in PLANTED if "thread" in bug.seen])
def test_the_thread_sanitizer(
    bug: PlantedBug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = healthy_outputs(bug)
    folder = planted_folder(bug, tmp_path)
    monkeypatch.setattr(emulator_build, "kernel_folder", lambda: folder)
    # Whatever the order of threads was, the race is there: one schedule is enough.
    assert outcome(bug, healthy, [runner("thread", 0)]) == bug.seen["thread"]


def test_every_bug_is_seen_by_some_layer() -> None:
    assert all(set(bug.seen.values()) - {"nothing"} for bug in PLANTED)


def test_there_are_bugs_in_every_kernel_and_no_two_with_one_name() -> None:
    assert len({bug.name for bug in PLANTED}) == len(PLANTED) >= 20
    assert {bug.case for bug in PLANTED} == set(CASES)
