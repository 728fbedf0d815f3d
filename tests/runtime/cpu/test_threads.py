from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_int8.runtime.cpu.threads import default_threads


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four hyper-threads on two cores, 0+2 and 1+3, all allowed; no quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        folder = tmp_path / f"cpus/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    (tmp_path / "groups").mkdir()
    return tmp_path


def threads(machine: Path) -> int:
    return default_threads(machine / "cpus", machine / "groups")


def test_hyper_threads_of_a_core_count_once(machine: Path) -> None:
    assert threads(machine) == 2


def test_only_allowed_cores_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3}, raising=False)
    assert threads(machine) == 1


def test_cores_without_a_description_count_each(machine: Path) -> None:
    assert default_threads(machine / "nowhere", machine / "groups") == 4


@pytest.mark.parametrize(
    ("text", "wanted"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 2), ("bad", 2)]
)
def test_the_containers_quota_counts_rounded_up(machine: Path, text: str, wanted: int) -> None:
    (machine / "groups/cpu.max").write_text(f"{text}\n")
    assert threads(machine) == wanted


@pytest.mark.parametrize(("micros", "wanted"), [("50000", 1), ("-1", 2), ("400000", 2)])
def test_the_quota_of_the_first_version_counts_too(machine: Path, micros: str, wanted: int) -> None:
    (machine / "groups/cpu").mkdir()
    (machine / "groups/cpu/cpu.cfs_quota_us").write_text(micros)
    (machine / "groups/cpu/cpu.cfs_period_us").write_text("100000")
    assert threads(machine) == wanted


def test_without_affinity_all_cpus_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert threads(machine) == 2  # CPU 0, 1 and 2 lie on two cores
