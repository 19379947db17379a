"""What run time launches on a GPU compiles for it, fits, and keeps its numbers in registers."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")
from tests.gpu.compile_kernels import SHARED_MEMORY

KERNELS = {"add_norm", "rotate_and_write", "attend", "merge", "gate", "choose"}


def compiled(capability: int, head_dim: int, group: int, window: int, cached: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = map(str, (capability, head_dim, group, window, cached))
    command = [sys.executable, "-m", "tests.gpu.compile_kernels", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    kernels: list[dict[str, Any]] = json.loads(result.stdout)
    return kernels


def check(kernels: list[dict[str, Any]], capability: int) -> None:
    assert {kernel["kernel"] for kernel in kernels} == KERNELS
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_MEMORY[capability], kernel
        assert kernel["local"] == kernel["stack"] == 0, f"spills: {kernel}"


@pytest.mark.parametrize("cached", ["auto", "fp8"])
def test_a_step_compiles_for_hopper_without_spills_and_multiplies_there_by_warp_groups(cached):
    kernels = compiled(90, 128, 4, 0, cached)
    check(kernels, 90)
    (tile,) = (kernel for kernel in kernels if kernel["kernel"] == "attend" and not kernel["is_split"])
    assert tile["uses_wgmma"]


@pytest.mark.slow
@pytest.mark.parametrize("cached", ["auto", "fp8"])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize(
    ("head_dim", "group", "window"), [(64, 4, 0), (80, 1, 0), (128, 4, 0), (128, 32, 0), (128, 7, 4096), (256, 2, 0)]
)
def test_a_step_compiles_without_spills_for_each_card_and_shape_of_heads(capability, head_dim, group, window, cached):
    check(compiled(capability, head_dim, group, window, cached), capability)
