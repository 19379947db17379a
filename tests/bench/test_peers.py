"""The ready configuration of benchmarks/peers.py."""

import shlex
import tomllib
from pathlib import Path
from string import Template

import pytest

from server import command_line
from server.settings import Settings

PEERS = tomllib.loads((Path(__file__).parents[2] / "benchmarks" / "peers.toml").read_text())
OURS = [name for name, peer in PEERS.items() if "server.cli" in peer["command"]]


@pytest.mark.parametrize("name", OURS)
def test_our_commands_are_such_as_the_command_line_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("server.serve.serve", lambda settings: seen.append(settings) or 0)
    command = Template(PEERS[name]["command"]).substitute(PYTHON="python", MODEL="some/model", PORT="8000", THREADS="2")
    python, module_flag, module, *arguments = shlex.split(command)
    assert (python, module_flag, module) == ("python", "-m", "server.cli")
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    assert end.value.code == 0
    (settings,) = seen
    assert (settings.model, settings.speculation, settings.num_threads) == ("some/model", False, 2)
    assert name.removeprefix("nexttoken").removeprefix("-") in ("", settings.dtype, settings.quantization)
