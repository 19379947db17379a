"""A ZeroMQ socket on the event loop."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec
import zmq

logger = logging.getLogger(__name__)

T = TypeVar("T")


def decoded(decoder: "msgspec.msgpack.Decoder[T]", data: bytes, sender: str) -> T | None:
    """The message; None, and a line in the log, for bytes that are no message of ours."""
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        logger.error("event=bad_message_from_%s error=%r", sender, str(error))
        return None


class MessageSocket:
    """Sends messages, and hands over those that come.

    Without pyzmq's asyncio half, whose futures and tasks took a tenth of the API process's time for a step.
    """

    def __init__(self, kind: int, identity: bytes = b"") -> None:
        """`kind`: zmq.DEALER or zmq.ROUTER. `identity`: how a ROUTER at the other end calls this socket."""
        self._context = zmq.Context()
        self._socket = self._context.socket(kind)
        # Unlimited queues. What a request brings is bounded by how many the engine admits. What comes at a steady rate
        # (status, counts, how long prompts took) is bounded in time: a process that hangs is killed.
        self._socket.set_hwm(0)
        if identity:
            self._socket.set(zmq.IDENTITY, identity)
        self._take: Callable[[list[bytes]], None] | None = None

    def bind(self, address: str) -> None:
        """Raises zmq.ZMQError."""
        self._socket.bind(address)

    def connect(self, address: str) -> None:
        """The other end may bind later."""
        self._socket.connect(address)

    def listen(self, take: Callable[[list[bytes]], None]) -> None:
        """Have `take` called with the parts of each message, in a turn of the event loop of its own."""
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._loop.add_reader(self._socket.FD, self._receive)
        self._receive()

    def send(self, *parts: bytes) -> None:
        """Queue a message; it is dropped after `close`, and where the process at the other end has died."""
        if self._socket.closed:
            return
        # There is no queue to an end that is gone. Whoever started that process hears of its death in a moment.
        with suppress(zmq.Again):
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        self._receive()

    def close(self) -> None:
        """What is not sent yet, or not handed over, is dropped."""
        if self._take is not None:
            self._loop.remove_reader(self._socket.FD)
            self._take = None
        self._context.destroy(linger=0)

    def _receive(self) -> None:
        """Take all messages that are there.

        The socket's descriptor tells of a message once, and any call, a send as well, may be what it tells.
        """
        if self._take is None:
            return
        with suppress(zmq.Again):
            while True:
                self._loop.call_soon(self._hand_over, self._socket.recv_multipart(zmq.NOBLOCK))

    def _hand_over(self, parts: list[bytes]) -> None:
        if self._take is not None:
            self._take(parts)
