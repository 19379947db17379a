"""Starts a server to be measured, and stops it."""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 600
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Running:
    """A server that takes requests."""

    url: str
    pid: int
    start_s: float
    """From start to ready."""


@contextmanager
def running(command: Sequence[str], port: int, ready: str = "/ready") -> Iterator[Running]:
    """Start it, wait until `ready` answers 200, and stop it. Ends this program with its log if it doesn't start."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment())
        try:
            while not _is_ready(url + ready):
                if process.poll() is not None or time.perf_counter() - started > START_TIMEOUT_S:
                    log.seek(0)
                    sys.exit(f"this did not start ({shlex.join(command)}):\n{log.read()[-2000:]}")
                time.sleep(0.02)
            yield Running(url, process.pid, time.perf_counter() - started)
        finally:
            _stop(process)


def environment() -> dict[str, str]:
    """In which what is measured runs: this project's code, and no network."""
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
