"""How many threads a session on the CPU uses unless it is told."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


def default_threads(cpus: Path = _CPUS, cgroups: Path = _CGROUPS) -> int:
    """Physical cores that this process may use, at least 1.

    Counted are those that its CPU affinity leaves it (one core each for hyper-threads, which share
    the multipliers), and no more than the container's CPU quota rounded up: threads beyond the
    quota only wait.

    Args:
        cpus: folder where Linux describes the CPUs.
        cgroups: folder where it describes the container's limits.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = len({_siblings(cpus, cpu) for cpu in allowed})
    quota = _quota(cgroups)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _siblings(cpus: Path, cpu: int) -> str:
    """What is equal for the hyper-threads of one core."""
    try:
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii").strip()
    except (OSError, ValueError):
        return str(cpu)


def _quota(cgroups: Path) -> float | None:
    """Cores that a container may keep busy (cgroup version 2, else 1); None if unlimited."""
    try:
        quota, period = (cgroups / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        micros = int((cgroups / "cpu/cpu.cfs_quota_us").read_text("ascii"))
        period_us = int((cgroups / "cpu/cpu.cfs_period_us").read_text("ascii"))
        return micros / period_us if micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
