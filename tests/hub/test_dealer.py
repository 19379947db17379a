"""Connections dealt to several takers in turn."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from server.hub.dealer import Dealer


class Taker:
    """The other end of what the dealer has of a process."""

    def __init__(self) -> None:
        self.control, self.end = socket.socketpair()
        self.control.setblocking(False)
        self.end.setblocking(False)

    async def take(self) -> bytes:
        """The first bytes that the next connection sends."""
        while True:
            try:
                _, (descriptor,), _, _ = socket.recv_fds(self.end, 1, 1)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            with socket.socket(fileno=descriptor) as connection:
                connection.setblocking(False)
                return await asyncio.get_running_loop().sock_recv(connection, 10)


def run(body: Callable[[Dealer, Callable[[bytes], None]], Awaitable[None]]) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        clients: list[socket.socket] = []

        def connect(name: bytes) -> None:
            clients.append(socket.create_connection(address))
            clients[-1].sendall(name)

        dealer = Dealer(listener)
        async with asyncio.timeout(10):
            await body(dealer, connect)
        dealer.close()
        for client in clients:
            client.close()

    asyncio.run(main())


def test_connections_wait_for_a_taker_and_then_go_to_all_in_turn() -> None:
    first, second = Taker(), Taker()

    async def body(dealer: Dealer, connect: Callable[[bytes], None]) -> None:
        connect(b"0")
        await asyncio.sleep(0.01)
        dealer.join(first.control)
        assert await first.take() == b"0"
        dealer.join(second.control)
        for name in (b"1", b"2", b"3", b"4"):
            connect(name)
        assert {await first.take(), await first.take()} == {b"1", b"3"}
        assert {await second.take(), await second.take()} == {b"2", b"4"}

    run(body)
    for taker in (first, second):
        taker.control.close()
        taker.end.close()


def test_a_taker_that_died_or_left_is_passed_over() -> None:
    dead, gone, alive = Taker(), Taker(), Taker()

    async def body(dealer: Dealer, connect: Callable[[bytes], None]) -> None:
        for taker in (dead, gone, alive):
            dealer.join(taker.control)
        dead.end.close()
        dealer.leave(gone.control)
        for name in (b"1", b"2", b"3"):
            connect(name)
            assert await alive.take() == name

    run(body)
    for taker in (dead, gone, alive):
        taker.control.close()
        taker.end.close()


def test_a_taker_that_comes_after_the_end_is_dealt_nothing() -> None:
    late = Taker()

    async def main() -> None:
        dealer = Dealer(socket.create_server(("127.0.0.1", 0)))
        dealer.close()
        dealer.join(late.control)

    asyncio.run(main())
    late.control.close()
    late.end.close()
