"""Every command of `nexttoken bench` in a short run on the bundled model, and what it says of wrong arguments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server import cli


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "bench", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["api", "--streams", "1,x"], "nexttoken bench api: argument --streams: 'x' is no whole number above 0"),
        (["api", "--streams", "5000"], "nexttoken bench api: --streams 5000 is more than 4096"),
        (["api", "--streems", "1"], "nexttoken bench api: unknown --streems, did you mean --streams?"),
        (["nothing"], "nexttoken bench: argument WHAT: invalid choice: 'nothing'"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[0].startswith(message)


def test_bench_api_sends_each_token_of_each_stream_in_a_chunk_of_its_own(tmp_path: Path) -> None:
    text = bench("api", "--streams", "1,4", "--tokens", "6", "--processes", "2", "--json", str(tmp_path / "api.json"))
    one, four = json.loads((tmp_path / "api.json").read_text())
    assert (one["streams"], four["streams"]) == (1, 4)
    assert four["chunks_per_s"] == four["tokens_per_s"] > 0
    assert [line.split()[0] for line in text.splitlines()] == ["streams", "1", "4"]
