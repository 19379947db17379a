"""What the README shows works as it stands there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], cwd: Path) -> str:
    # No variable of this machine may stand between the example and the server.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


CURLS = [block for block in blocks("bash") if block.startswith("curl ")]


def test_the_readme_has_curls_and_programs() -> None:
    assert len(CURLS) >= 3
    assert len(blocks("python")) >= 2
    assert len(blocks("javascript")) == 1


@pytest.mark.parametrize("curl", CURLS)
def test_each_curl_gets_a_text(server: ServerProcess, tmp_path: Path, curl: str) -> None:
    answer = run(["bash", "-c", _at(server, curl.strip()) + " -sS --fail"], tmp_path)
    assert re.search(r'"(text|content)":"[^"]', answer)
    assert '"finish_reason":"' in answer


def test_the_python_blocks_one_after_the_other_print_texts(server: ServerProcess, tmp_path: Path) -> None:
    program = "\n\n".join(blocks("python"))
    *printed, call, told = run([sys.executable, "-c", _at(server, program)], tmp_path).splitlines()
    assert [f"# {call}", f"# {told}"] == re.findall(r"(?<=\)  )# .*", program)[-2:]
    streamed, person = "\n".join(printed).rsplit("\n{", 1)
    assert streamed.strip()
    assert set(json.loads("{" + person)) == {"name", "age"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_javascript_program_prints_a_text(server: ServerProcess, tmp_path: Path) -> None:
    (program,) = blocks("javascript")
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if installed.returncode != 0:
        pytest.skip("no registry to install openai from: " + installed.stderr[-200:])
    (tmp_path / "program.mjs").write_text(_at(server, program))
    assert run(["node", "program.mjs"], tmp_path).strip()


def _at(server: ServerProcess, text: str) -> str:
    assert "http://localhost:8000" in text
    return text.replace("http://localhost:8000", server.url)
