"""How much memory this process can still get."""

import os
from pathlib import Path

UNLIMITED = 2**63


def available_memory(proc_root: Path = Path("/proc"), cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: what the machine has left, or the container's limit less what it uses, whichever is smaller."""
    return min(_machine(proc_root), _container_v2(cgroup_root), _container_v1(cgroup_root / "memory"))


def _machine(proc_root: Path) -> int:
    found = _field(proc_root / "meminfo", "MemAvailable:")
    # Systems without /proc don't say what is left: all that there is stands in.
    return found * 1024 if found is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_v2(root: Path) -> int:
    limit = _read(root / "memory.max")
    if not limit or limit == "max":
        return UNLIMITED
    return _left(int(limit), root / "memory.current", root / "memory.stat", "inactive_file")


def _container_v1(root: Path) -> int:
    limit = _read(root / "memory.limit_in_bytes")
    if not limit:
        return UNLIMITED
    return _left(int(limit), root / "memory.usage_in_bytes", root / "memory.stat", "total_inactive_file")


def _left(limit: int, usage: Path, stat: Path, page_cache: str) -> int:
    # The kernel counts files that were read, such as the weights, as used; it drops them when the memory is wanted.
    used = int(_read(usage) or 0) - (_field(stat, page_cache) or 0)
    return max(0, limit - max(0, used))


def _field(path: Path, name: str) -> int | None:
    """The number after `name` in a file of such lines; None where file or line is missing."""
    for line in _read(path).splitlines():
        key, value, *_ = line.split()
        if key == name:
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
