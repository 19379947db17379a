"""The compiled library as a whole."""

import shutil
import subprocess

import pytest

from model.kernels.cpu.build import LIBRARY
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
