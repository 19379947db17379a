"""How much memory is left, read from files as Linux and its containers write them."""

from pathlib import Path

import pytest

from model.memory import available_memory

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 10 GiB left."""
    return write(tmp_path / "proc", {"meminfo": f"MemTotal: {16 * 2**20} kB\nMemAvailable:   {10 * 2**20} kB\n"})


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 10 * GIB, id="no cgroup"),
        pytest.param({"memory.max": "max", "memory.current": GIB}, 10 * GIB, id="v2 without a limit"),
        pytest.param({"memory.max": 4 * GIB, "memory.current": GIB}, 3 * GIB, id="v2"),
        pytest.param({"memory.max": 40 * GIB, "memory.current": GIB}, 10 * GIB, id="more than the machine has"),
        pytest.param({"memory.max": GIB, "memory.current": 2 * GIB}, 0, id="nothing left"),
        pytest.param(
            {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 1\ninactive_file {2 * GIB}"},
            3 * GIB,
            id="files that were read don't count",
        ),
        pytest.param(
            {"memory/memory.limit_in_bytes": 2 * GIB, "memory/memory.usage_in_bytes": GIB // 2}, 3 * GIB // 2, id="v1"
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": 2 * GIB,
                "memory/memory.usage_in_bytes": 2 * GIB,
                "memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}",
            },
            GIB,
            id="v1 with files",
        ),
        pytest.param({"memory/memory.limit_in_bytes": 2**63 - 4096}, 10 * GIB, id="v1 without a limit"),
    ],
)
def test_memory_is_the_smaller_of_machine_and_container(tmp_path, proc, files, expected):
    assert available_memory(proc, write(tmp_path / "cgroup", files)) == expected


def test_system_without_proc_has_some_memory(tmp_path):
    assert available_memory(tmp_path, tmp_path) > 2**20
