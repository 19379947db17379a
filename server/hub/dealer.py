"""Accepts connections and deals them out to the API processes in turn."""

import asyncio
import logging
import socket
from collections import deque

logger = logging.getLogger(__name__)

# What is accepted before the loop's next turn.
_MAX_AT_ONCE = 64
# How long nothing is accepted when there are no file descriptors left.
_PAUSE_S = 1.0


class Dealer:
    """Gives each connection of a listening socket to one of several processes, over a socket to it.

    If they accepted themselves, those that have nothing to do would race for each connection, and the kernel wakes them
    in the same order each time: a client that opens its connections one after the other would have them all at one.
    """

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._takers: deque[socket.socket] = deque()
        """The one whose turn is next is first."""

    def join(self, taker: socket.socket) -> None:
        """From now on deal to this process, too. Until there's one, connections wait; after `close` none come."""
        if self._listener.fileno() < 0:  # it came up while the server was told to end
            return
        self._takers.append(taker)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def leave(self, taker: socket.socket) -> None:
        """Deal to this process no more, if it was dealt to."""
        if taker in self._takers:
            self._takers.remove(taker)
            if not self._takers:
                asyncio.get_running_loop().remove_reader(self._listener)

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._takers.clear()

    def _accept(self) -> None:
        for _ in range(_MAX_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files
                logger.error("event=cannot_accept error=%r", str(error))
                self._pause()
                return
            with connection:
                self._deal(connection)

    def _deal(self, connection: socket.socket) -> None:
        """Give it to the process whose turn it is, or the next one that takes it."""
        for _ in range(len(self._takers)):
            taker = self._takers[0]
            self._takers.rotate(-1)
            try:
                socket.send_fds(taker, [b"."], [connection.fileno()])
            except OSError:  # dead, or behind by hundreds
                continue
            return

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)

        def go_on() -> None:
            if self._takers:
                loop.add_reader(self._listener, self._accept)

        loop.call_later(_PAUSE_S, go_on)
