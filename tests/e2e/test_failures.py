"""What happens when processes die, clients leave and operators stop the server."""

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.server_process import ServerProcess, events, running_server

STORY = {"prompt": "Once upon a time", "max_tokens": 300, "temperature": 0, "ignore_eos": True}


def stream_text(server: ServerProcess, body: dict, on_chunk=lambda count: None) -> str:
    text, count = "", 0
    with httpx.stream("POST", server.url + "/v1/completions", json={**body, "stream": True}, timeout=60) as response:
        assert response.status_code == 200
        for event in events(response.iter_lines()):
            text += "".join(choice["text"] for choice in event["choices"])
            count += 1
            on_chunk(count)
    return text


def test_en02_streams_survive_the_death_of_the_worker_with_the_text_of_an_undisturbed_run(tmp_path: Path) -> None:
    bodies = [
        STORY,
        {**STORY, "prompt": "The little dog"},
        {**STORY, "prompt": "A cat", "temperature": 1, "seed": 7},
        {**STORY, "prompt": "One day", "temperature": 0.8, "seed": 11, "frequency_penalty": 0.5},
    ]
    with running_server(tmp_path, "--dtype", "float32") as server:
        undisturbed = [stream_text(server, body) for body in bodies]
        texts = [""] * len(bodies)
        is_begun = threading.Event()
        threads = [
            threading.Thread(
                target=lambda i=i, body=body: texts.__setitem__(
                    i, stream_text(server, body, lambda count: count >= 5 and is_begun.set())
                )
            )
            for i, body in enumerate(bodies)
        ]
        for thread in threads:
            thread.start()
        assert is_begun.wait(20)
        os.kill(server.worker_pid, signal.SIGKILL)
        server.wait_until(lambda: server.get("/health").status_code == 503, timeout_s=2)
        for thread in threads:
            thread.join(60)
        assert texts == undisturbed
        assert server.get("/health").status_code == 200
        assert server.metric("worker_restarts_total") == 1
        assert server.complete("Once upon a time") == undisturbed[0][: len(server.complete("Once upon a time"))]


def test_disconnects_at_random_moments_leave_no_block_in_use(server: ServerProcess) -> None:
    rng = random.Random(3)

    async def client(http: httpx.AsyncClient, number: int) -> None:
        body = {**STORY, "prompt": f"Once upon a time there were {number} birds", "stream": number % 3 > 0}
        leaves_after = rng.choice([0.01, 0.1, 0.3, 0.6, 30])
        try:
            async with asyncio.timeout(leaves_after):
                await http.post("/v1/completions", json=body)
        except TimeoutError:
            pass

    async def main() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
            await asyncio.gather(*(client(http, number) for number in range(64)))

    asyncio.run(main())
    server.wait_until(server.is_idle)
    assert server.complete("Once upon a time")


@pytest.mark.parametrize("is_stream", [False, True])
def test_en03_a_client_that_goes_away_ends_its_request(server: ServerProcess, is_stream: bool) -> None:
    body = json.dumps({**STORY, "max_tokens": 1900, "stream": is_stream}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\n{fields}\r\n".encode() + body)
        server.wait_until(lambda: server.metric("num_requests_running") == 1)
    started = time.monotonic()
    server.wait_until(server.is_idle)
    assert time.monotonic() - started < 2, "it would have run for several seconds"


def test_op01_sigterm_lets_running_streams_finish_and_exits_with_0(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        expected = stream_text(server, STORY)
        refused: list[int] = []

        def stop_early(count: int) -> None:
            if count == 5:
                server.process.send_signal(signal.SIGTERM)
            if count == 20:
                refused.append(server.post("/v1/completions", STORY).status_code)

        assert stream_text(server, STORY, stop_early) == expected
        assert refused == [503]
        assert server.process.wait(timeout=10) == 0


def test_a_stream_cut_by_the_drain_timeout_ends_with_an_error_event(tmp_path: Path) -> None:
    with running_server(tmp_path, "--drain-timeout-s", "0.2") as server:
        body = {**STORY, "max_tokens": 2000, "stream": True}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("data: ")]
        errors = [json.loads(line[6:])["error"] for line in rest if '"error"' in line]
        assert len(errors) == 1
        assert server.process.wait(timeout=10) == 0


def test_en11_no_worker_outlives_a_killed_server(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        worker = psutil.Process(server.worker_pid)
        server.process.kill()
        worker.wait(timeout=5)


def test_nw04_only_the_http_port_listens_and_the_socket_folder_is_private(server: ServerProcess) -> None:
    pids = [server.process.pid, server.worker_pid]
    listening = [
        connection.laddr.port
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [int(server.url.rsplit(":", 1)[1])]
    (address,) = [part[6:] for part in psutil.Process(server.worker_pid).cmdline() if part.startswith("ipc://")]
    assert os.stat(os.path.dirname(address)).st_mode & 0o777 == 0o700


def test_a_port_that_is_taken_is_one_line_and_no_trace(server: ServerProcess, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    with running_server(tmp_path, "--port", port, wait=False) as second:
        assert second.process.wait(timeout=20) == 1
        assert second.log.read_text().splitlines() == [
            f"nexttoken serve: can't listen on 127.0.0.1:{port}: Address already in use"
        ]


def test_a_model_that_can_not_be_served_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with running_server(tmp_path, str(model), wait=False) as server:
        assert server.process.wait(timeout=30) == 2
        (line,) = server.log.read_text().splitlines()
        assert "GPT2LMHeadModel" in line


def test_a_second_signal_ends_at_once_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        worker = psutil.Process(server.worker_pid)
        (address,) = [part[6:] for part in worker.cmdline() if part.startswith("ipc://")]
        body = {**STORY, "max_tokens": 2000, "stream": True, "n": 64, "temperature": 1}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            for _ in range(2):
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            assert server.process.wait(timeout=5) != 0
        worker.wait(timeout=5)
        assert "ended_at_once in_flight=64" in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
        assert not os.path.exists(os.path.dirname(address))
