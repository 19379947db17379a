"""Every command of `nexttoken bench` in a short run on the bundled model, and what it says of wrong arguments."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels.cpu.library import unavailable
from server import command_line
from tests.e2e.server_process import running_server


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "bench", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["api", "--streams", "1,x"], "nexttoken bench api: argument --streams: 'x' is no whole number"),
        (["api", "--streams", "0"], "nexttoken bench api: argument --streams: '0' is no whole number above 0"),
        (["api", "--streams", "5000"], "nexttoken bench api: --streams 5000 is more than 4096"),
        (["api", "--streems", "1"], "nexttoken bench api: unknown --streems, did you mean --streams?"),
        (
            ["serve", "--base-url", "localhost:8000"],
            "nexttoken bench serve: --base-url: 'localhost:8000' is no http://",
        ),
        (["serve", "--rate", "1,0"], "nexttoken bench serve: argument --rate: '0' is no number above 0"),
        (["serve", "--rate", "1", "--concurrency", "1"], "nexttoken bench serve: --rate and --concurrency"),
        (["serve", "--arrivals", "fixed"], "nexttoken bench serve: --arrivals spreads requests in time, which needs"),
        (["serve", "--slo", "ttf=1"], "nexttoken bench serve: argument --slo: 'ttf' is none of ttft, tpot, e2e"),
        (
            ["serve", "--temperature", "-1"],
            "nexttoken bench serve: argument --temperature: '-1' is no number of at least 0",
        ),
        (["serve", "--slo", "ttft=-1"], "nexttoken bench serve: argument --slo: '-1' is no number above 0"),
        (["serve", "--prefix-len", "128"], "nexttoken bench serve: --prefix-len 128 leaves nothing of --input-len 128"),
        (["serve", "--processes", "2"], "nexttoken bench serve: --processes 2 is more than --concurrency 1"),
        (["serve", "--file", "x", "--turns", "2"], "nexttoken bench serve: --file holds the prompts"),
        (["serve", "--model", "m", "--file", "no/such/file"], "nexttoken bench serve: --file: "),
        (
            ["scheduler", "--json", "/no/such/place"],
            "nexttoken bench scheduler: argument --json: no file can be",
        ),
        (["engine", "--batch", "0"], "nexttoken bench engine: argument --batch: '0' is no whole number above 0"),
        (["engine", "--context", "99999"], "nexttoken bench engine: --context 99999 and 32 steps are more than the"),
        (["engine", "no/such/model"], "nexttoken bench engine: "),
        (["engine", "--quantization", "int3"], "nexttoken bench engine: --quantization: "),
        (["api", "--api-processes", "2"], "nexttoken bench api: --api-processes needs --step-ms"),
        (["api", "--strems", "1"], "nexttoken bench api: unknown --strems, did you mean --streams?"),
        (["scheduler", "1"], "nexttoken bench scheduler: unknown 1"),
        (["serve", "--slo", "ttft"], "nexttoken bench serve: argument --slo: 'ttft' has no bound in milliseconds"),
        (["engine", "--kv-cache-memory-bytes", "4XiB"], "nexttoken bench engine: --kv-cache-memory-bytes: "),
        (["nothing"], "nexttoken bench: argument WHAT: invalid choice: 'nothing'"),
        (
            ["serv"],
            "nexttoken bench: argument WHAT: invalid choice: 'serv' (choose from serve, engine, api, scheduler), did",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["bench", *arguments])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_bench_api_sends_each_token_of_each_stream_in_a_chunk_of_its_own(tmp_path: Path) -> None:
    text = bench("api", "--streams", "1,4", "--tokens", "6", "--processes", "2", "--json", str(tmp_path / "api.json"))
    one, four = json.loads((tmp_path / "api.json").read_text())
    assert (one["streams"], four["streams"]) == (1, 4)
    assert four["chunks_per_s"] == four["tokens_per_s"] > 0
    assert [line.split()[0] for line in text.splitlines()] == ["streams", "1", "4"]


def test_bench_api_tells_what_the_hub_of_several_processes_takes_for_a_step(tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    bench("api", "--streams", "4", "--tokens", "50", "--api-processes", "2", "--step-ms", "5", "--json", str(path))
    [four] = json.loads(path.read_text())
    assert four["tokens_per_s"] <= 4 / 0.005
    assert 0 < four["hub_us_per_step"] < four["cpu_us_per_token"] * 4


def test_bench_serve_sweeps_and_writes_a_table_data_and_a_plot(tmp_path: Path) -> None:
    with running_server(tmp_path, "--api-key", "secret") as server:
        to = ("serve", "--base-url", server.url, "--api-key", "secret")
        files = ("--json", str(tmp_path / "sweep.json"), "--plot", str(tmp_path / "sweep.svg"))
        lens = ("--input-len", "40", "--prefix-len", "32", "--output-len", "4")
        text = bench(*to, *lens, *files, "--concurrency", "1,2", "--requests", "4", "--slo", "e2e=60000")
        chats = bench(*to, "--rate", "50", "--requests", "2", "--turns", "2", "--input-len", "5", "--output-len", "3")
    assert "streams" in text.splitlines()[0]
    assert "within the SLO %" in text
    assert "More was cached" not in text + chats
    seeds = [re.findall(r"--seed (\d+)\.$", report, re.MULTILINE) for report in (text, chats)]
    assert seeds[0] != seeds[1], "what the first run asked for is in the server's cache"
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert [str(written["asked"]["seed"])] == seeds[0]
    assert "secret" not in json.dumps(written)
    assert written["asked"]["shape"]["prefix_len"] == 32
    levels = written["levels"]
    assert [level["load"] for level in levels] == [1, 2]
    for level in levels:
        summary = level["summary"]
        assert (summary["num_requests"], summary["num_errors"], summary["output_tokens"]) == (4, 0, 16)
        assert summary["prompt_tokens"] == 4 * 40
        assert summary["cached_tokens"] == 4 * 32  # the warm-up left them there
        assert summary["goodput_share"] == 1
        assert len(level["requests"]) == 4
    assert (tmp_path / "sweep.svg").read_text().startswith("<svg")
    rows = dict(line.rsplit(maxsplit=1) for line in chats.splitlines()[:3])
    assert (rows["requests"], rows["failed"]) == ("4", "0")


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["bench", "serve", "--base-url", "http://127.0.0.1:9"])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("nexttoken bench serve: no answer from 127.0.0.1:9: ")


def test_bench_scheduler_has_a_line_for_each_number_of_sequences() -> None:
    lines = bench("scheduler", "--sequences", "2,4").splitlines()
    assert [line.split()[0] for line in lines] == ["sequences", "2", "4"]


def test_bench_engine_holds_its_steps_against_the_device_and_traces_some(tmp_path: Path) -> None:
    text = bench(
        *("engine", "--batch", "1,2", "--context", "24", "--num-threads", "1", "--block-size", "16"),
        *("--json", str(tmp_path / "engine.json"), "--profile", str(tmp_path / "trace.json")),
    )
    assert "GB/s read" in text
    results = json.loads((tmp_path / "engine.json").read_text())
    assert results["limits"]["read_bytes_per_s"] > 1e8
    assert [(case["batch"], case["context"]) for case in results["cases"]] == [(1, 24), (2, 24)]
    assert all(case["decode_mbu"] > 0 and case["prefill_mfu"] > 0 for case in results["cases"])
    names = {event.get("name", "") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    expected = {"nexttoken::layers", "nexttoken::choose"} if unavailable() is None else {"aten::embedding"}
    assert {"prefill", "decode", *expected} <= names
    assert "trace.json: a trace of" in text
