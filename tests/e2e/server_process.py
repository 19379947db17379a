"""A real server process on a free port, started and stopped by a test."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

START_TIMEOUT_S = 60


@dataclass
class ServerProcess:
    process: subprocess.Popen[str]
    log: Path
    url: str = ""

    @property
    def worker_pid(self) -> int:
        (worker,) = [
            child
            for child in psutil.Process(self.process.pid).children()
            if "server.engine.worker" in " ".join(child.cmdline())
        ]
        return worker.pid

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def post(self, path: str, body: dict) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def complete(self, prompt: str, **fields: object) -> str:
        body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
        response = self.post("/v1/completions", body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["text"]

    def metric(self, name: str) -> float:
        found = re.search(rf"^nexttoken:{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found[1])

    def wait_until(self, condition, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time\n" + self.log.read_text()[-3000:]
            time.sleep(0.05)

    def is_idle(self) -> bool:
        return self.metric("num_requests_in_flight") == 0 and self.metric("kv_cache_usage_perc") == 0

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def running_server(folder: Path, *arguments: str, wait: bool = True) -> Iterator[ServerProcess]:
    """`nexttoken serve ARGUMENTS` until the block is left."""
    log = folder / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEXTTOKEN_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            # One thread: the machine that tests is shared, and threads that wait for each other there wait long.
            [sys.executable, "-m", "server.cli", "serve", "--port", "0", "--num-threads", "1", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
        )
    server = ServerProcess(process, log)
    try:
        if wait:
            _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        found = re.search(r"API\s+(http://\S+)/v1", server.log.read_text())
        if found:
            server.url = found[1].replace("localhost", "127.0.0.1")
            return
        time.sleep(0.05)
    raise AssertionError("not ready in time\n" + server.log.read_text())


def events(lines: Iterator[str]) -> Iterator[dict]:
    """The JSON of each event of a stream, up to [DONE], which must come."""
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")
