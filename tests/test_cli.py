"""How a command's process ends when somebody wants it to."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command with a process group of its own, as a shell starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said on its way."""
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("delay_s", [0.2, 0.5])
def test_ctrl_c_while_a_server_is_imported_ends_it_without_a_word(delay_s: float) -> None:
    with command("serve", "--port", "0") as process:
        time.sleep(delay_s)
        code, errors = press_ctrl_c(process)
    # Once it has its own way to end, an end that was asked for is none by a signal.
    assert code in (0, 130)
    assert "Traceback" not in errors


def test_ctrl_c_ends_a_command_in_its_midst_without_a_word() -> None:
    with command("doctor", "--num-threads", "1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert press_ctrl_c(process) == (130, "")


def test_ctrl_c_ends_a_load_with_its_clients_without_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with command("bench", "serve", "--base-url", url, "--model", "m", "--concurrency", "2") as process:
            connection, _ = listener.accept()
            assert press_ctrl_c(process) == (130, "")
        with connection:
            connection.settimeout(30)
            while connection.recv(1 << 16):  # until the client process has ended
                pass


def test_ctrl_c_ends_the_server_that_bench_api_started_too() -> None:
    with command("bench", "api", "--streams", "1", "--tokens", "100000") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "nexttoken: starting the worker\n"
        # The end of the pipe: nobody is left who writes to it.
        assert press_ctrl_c(process) == (130, "")


def test_output_that_nobody_reads_is_no_traceback() -> None:
    with command("bench", "scheduler", "--sequences", "2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == ("", 141)


def test_a_command_that_is_none_is_likened_to_one() -> None:
    with command("serv") as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "")
    assert errors.endswith("invalid choice: 'serv' (choose from serve, doctor, bench), did you mean serve?\n")
