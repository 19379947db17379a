"""The compiled library as a whole."""

import os
import shutil
import subprocess
import sys

import pytest

from model.kernels.cpu.build import LIBRARY, levels
from tests.kernels.levels import needs_kernels

pytestmark = needs_kernels


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm comes with the compiler")
def test_no_instruction_set_shares_code_with_another() -> None:
    # A template with external linkage, such as one of the standard library, is merged into the code of one instruction
    # set, which a lesser processor may be unable to run. context.cpp, where there is but one, may have them.
    symbols = subprocess.run(["nm", "-C", LIBRARY], check=True, capture_output=True, text=True).stdout.splitlines()
    names = [line.split(maxsplit=2)[2] for line in symbols if line[17:18] in "tTwWVu" and "<" in line]
    assert any(name.startswith("void (anonymous namespace)::") for name in names)
    assert [name for name in names if "(anonymous namespace)" not in name and "Context::Context" not in name] == []


@pytest.mark.parametrize(("capability", "level"), [("avx2", "avx2"), ("default", "plain")])
def test_torchs_variable_holds_the_kernels_to_an_instruction_set(capability: str, level: str) -> None:
    if level not in levels():
        pytest.skip("not this kind of processor's")
    code = "from model.kernels.cpu.library import CpuKernels; print(CpuKernels(1).level)"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == level
