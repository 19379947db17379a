"""API processes that can't be had: what the hub does then."""

import asyncio
import logging
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.engine.client import EngineClient
from server.hub import processes as processes_module
from server.hub.messages import ApiProcessConfig
from server.hub.processes import ApiProcesses
from tests.engine.fake_connection import FakeConnection, in_turn

CONFIG = ApiProcessConfig(settings={}, directory="", draft_directory=None, created=0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def api_processes(listener: socket.socket) -> ApiProcesses:
    engine = EngineClient(in_turn([FakeConnection()]), max_waiting=1, hang_timeout_s=60)
    return ApiProcesses(CONFIG, 2, engine, listener)


def test_a_folder_whose_path_is_too_long_for_sockets_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    num_open = psutil.Process().num_fds()
    with pytest.raises(OSError, match="too long"):
        api_processes(listener)
    assert list(folder.iterdir()) == []
    assert psutil.Process().num_fds() == num_open


def test_replacements_that_die_young_come_ever_later_and_do_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listener: socket.socket
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    monkeypatch.setattr(processes_module, "PAUSES_S", (0.01, 0.01, 60.0))
    processes = api_processes(listener)
    processes._ups.add(0)  # as if one had been up: else the first death ends the server
    caplog.set_level(logging.ERROR)

    def num_deaths() -> int:
        return caplog.text.count("event=api_process_died")

    async def main() -> None:
        serving = asyncio.create_task(processes.serve())
        async with asyncio.timeout(20):
            while num_deaths() < 6:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert num_deaths() == 6
            processes.stop()
            await serving

    asyncio.run(main())
    processes.close()
