"""uvicorn, with our protocol and without its signals."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from server.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI

# How long responses may take to leave once the engine has nothing more to say.
FLUSH_TIMEOUT_S = 5


class HttpServer(uvicorn.Server):
    """Serves the application until `stop`."""

    def __init__(self, app: "FastAPI", keep_alive_s: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=FLUSH_TIMEOUT_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us: uvicorn's handlers would close the port first and end the process by the signal."""
        yield

    def stop(self) -> None:
        """Send what is being answered, then end."""
        self.should_exit = True


class ListeningFront:
    """HTTP in this process, over a port of its own (`service.Front`)."""

    def __init__(self, server: HttpServer, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener

    async def serve(self) -> None:
        """Answer until told to stop."""
        await self._server.serve(sockets=[self._listener])

    async def wait_until_up(self) -> None:
        """Until requests are read."""
        while not self._server.started:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Have `serve` return once what is being answered has left."""
        self._server.stop()
