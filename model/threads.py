"""How many threads this process should compute with."""

import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cores(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Cores that this process may use: its CPU affinity, or its container's quota where that is less; at least 1.

    Threads beyond a quota are throttled and make everything slower, so a quota of 7.65 cores counts as 7.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = container_quota(cgroup_root)
    return max(1, min(cores, int(quota))) if quota else cores


def container_quota(cgroup_root: Path = CGROUP_ROOT) -> float | None:
    """Cores' worth of time that the container may use; None where it has no limit."""
    return _quota_v2(cgroup_root) or _quota_v1(cgroup_root)


def _quota_v2(root: Path) -> float | None:
    fields = _read(root / "cpu.max").split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return int(fields[0]) / int(fields[1])


def _quota_v1(root: Path) -> float | None:
    quota, period = _read(root / "cpu" / "cpu.cfs_quota_us"), _read(root / "cpu" / "cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
