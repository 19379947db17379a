"""How many threads to compute with, from affinity and from quota files as containers have them."""

import os
from pathlib import Path

import pytest

from model.threads import available_cores

V1 = {"cpu/cpu.cfs_period_us": "100000"}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 16, id="no cgroup"),
        pytest.param({"cpu.max": "max 100000"}, 16, id="v2 max"),
        pytest.param({"cpu.max": "765000 100000"}, 7, id="v2 rounds down"),
        pytest.param({"cpu.max": "50000 100000"}, 1, id="v2 less than a core"),
        pytest.param({"cpu.max": "3200000 100000"}, 16, id="v2 more than the machine has"),
        pytest.param({**V1, "cpu/cpu.cfs_quota_us": "-1"}, 16, id="v1 max"),
        pytest.param({**V1, "cpu/cpu.cfs_quota_us": "765000"}, 7, id="v1 rounds down"),
        pytest.param({**V1, "cpu/cpu.cfs_quota_us": "20000"}, 1, id="v1 less than a core"),
    ],
)
def test_op05_cores_are_the_quota_rounded_down(tmp_path, files, cores):
    assert available_cores(write(tmp_path, files)) == cores


def test_op05_cores_are_those_of_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert available_cores(tmp_path) == 3
    assert available_cores(write(tmp_path, {"cpu.max": "200000 100000"})) == 2


def test_systems_without_affinity_count_their_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores(tmp_path) == 6
