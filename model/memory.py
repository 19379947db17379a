"""How much memory this process can still get."""

from pathlib import Path


def available_memory(proc_root: Path = Path("/proc"), cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: what the machine has left, or the container's limit less what it uses, whichever is smaller."""
    return min(_machine(proc_root), _container(cgroup_root))


def _machine(proc_root: Path) -> int:
    for line in (proc_root / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no MemAvailable in /proc/meminfo")


def _container(cgroup_root: Path) -> int:
    try:
        limit = (cgroup_root / "memory.max").read_text().strip()
        used = (cgroup_root / "memory.current").read_text().strip()
    except OSError:
        return 2**63
    return max(0, int(limit) - int(used)) if limit != "max" else 2**63
