"""HTTP over connections that the hub has accepted."""

import asyncio
import socket
from typing import TYPE_CHECKING

from server.http_protocol import HttpProtocol
from server.http_server import HttpServer

if TYPE_CHECKING:
    from fastapi import FastAPI


class DealtHttpServer(HttpServer):
    """Serves the connections that come over a socket, until there come no more."""

    def __init__(self, app: "FastAPI", keep_alive_s: int, dealt: socket.socket, private: socket.socket) -> None:
        """`dealt`: over which the hub sends connections. `private`: where other API processes connect."""
        super().__init__(app, keep_alive_s)
        dealt.setblocking(False)
        self._dealt = dealt
        self._private = private
        self._connecting: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then read connections."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_unix_server(self._protocol, sock=self._private))
        loop.add_reader(self._dealt, self._take_connections)

    def _take_connections(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._dealt, 1, 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                self._connect(socket.socket(fileno=descriptor))
            if not data:
                asyncio.get_running_loop().remove_reader(self._dealt)
                self.stop()
                return

    def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.connect_accepted_socket(self._protocol, connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _protocol(self) -> asyncio.Protocol:
        # As uvicorn does it for connections that it accepts itself.
        return HttpProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
