"""What a connection may ask of the server before and between its requests."""

import socket
import time
from contextlib import suppress

import httpx
import pytest

from tests.e2e.server_process import ServerProcess


def connect(server: ServerProcess) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=10)


def first_line(connection: socket.socket) -> bytes:
    """Of the answer; empty where the server hung up without one."""
    try:
        return connection.recv(4096).split(b"\r\n")[0]
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /health HTTP/1.1\r\nx: " + b"a" * 10**7, id="one huge header"),
        pytest.param(b"GET /health HTTP/1.1\r\n" + b"x: a\r\n" * 10**5, id="many headers"),
        pytest.param(b"GET /" + b"a" * 10**6, id="a long request line"),
    ],
)
def test_in13_headers_without_end_are_cut_off(server: ServerProcess, head: bytes) -> None:
    with connect(server) as connection:
        with suppress(ConnectionError):  # it may hang up before all is sent
            connection.sendall(head)
        assert first_line(connection).split(b" ")[1:2] in ([], [b"400"], [b"414"], [b"431"])
    assert server.get("/health").status_code == 200


@pytest.mark.slow
def test_st07_an_idle_connection_outlives_the_http_servers_own_five_seconds(server: ServerProcess) -> None:
    with connect(server) as connection:
        for pause_s in (7, 0):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert first_line(connection) == b"HTTP/1.1 200 OK"
            time.sleep(pause_s)
