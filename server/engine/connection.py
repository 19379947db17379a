"""A worker process and the socket to it."""

import asyncio
import logging
import shutil
import subprocess
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Protocol, Self

import msgspec
import zmq

from server.child import child_command
from server.engine.messages import FromWorker, ToWorker, WorkerConfig
from server.message_socket import MessageSocket, decoded

logger = logging.getLogger(__name__)

# How long a worker may take to end by itself once its input is closed.
EXIT_GRACE_S = 5.0


class WorkerDied(Exception):
    """The worker process ended, or must be taken for dead; the text says how."""


class WorkerConnection(Protocol):
    """What the client needs of a connection to a worker. Entering it makes it usable, leaving it ends the worker."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, message: ToWorker) -> None:
        """Queue a message for the worker."""

    async def receive(self, timeout_s: float) -> FromWorker | None:
        """The next message, or None if none came in time. Raises WorkerDied when the worker has ended."""

    def kill(self) -> None:
        """End the worker at once."""

    def close(self) -> None:
        """End the worker, if it still runs. For a connection that was never entered, too."""


class Connection:
    """Starts a worker process, talks with it over a private ipc socket, and ends it.

    The process is started by the constructor, so that it can be on its way before anything else is imported: its start
    takes longest. Use as an async context manager: leaving it ends the process.
    """

    def __init__(self, config: WorkerConfig) -> None:
        # mkdtemp makes it 0700: nobody else can reach the socket.
        self._directory = Path(tempfile.mkdtemp(prefix="nexttoken-"))
        self._address = f"ipc://{self._directory}/worker"
        self._process = subprocess.Popen(
            child_command("server.engine.worker", self._address, msgspec.json.encode(config).decode()),
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process; the worker ignores it, but not yet while it imports
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._socket = MessageSocket(zmq.DEALER)
        try:
            self._socket.bind(self._address)
        except zmq.ZMQError:
            self._socket.close()
            self.close()
            raise
        self._received: deque[bytes] = deque()
        self._news: asyncio.Future[None] = loop.create_future()
        """Set where `receive` waits and need not wait any more."""
        self._exited: asyncio.Future[int] = loop.create_future()
        self._socket.listen(self._take)

        def tell(code: int) -> None:
            if not self._exited.done():
                self._exited.set_result(code)
            self._wake()

        def wait_for_exit() -> None:
            code = self._process.wait()
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(tell, code)

        # A daemon, so that a worker that can't be killed doesn't keep us from ending.
        Thread(target=wait_for_exit, name="worker-exit", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask_to_end()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._exited), EXIT_GRACE_S)
        self._socket.close()
        self.close()

    def close(self) -> None:
        """End the process, if it still runs, and remove the socket. For a connection that was never entered, too."""
        self._ask_to_end()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def send(self, message: ToWorker) -> None:
        """Queue a message for the worker."""
        self._socket.send(self._encode(message))

    async def receive(self, timeout_s: float) -> FromWorker | None:
        """The next message, or None if none came in time. Raises WorkerDied when the process has ended."""
        if not self._received and not self._exited.done():
            loop = asyncio.get_running_loop()
            self._news = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            await self._news
            timer.cancel()
        if self._received:
            return decoded(self._decoder, self._received.popleft(), "worker")
        if self._exited.done():
            raise WorkerDied(describe_exit(self._exited.result()))
        return None

    def _take(self, parts: list[bytes]) -> None:
        self._received.append(parts[0])
        self._wake()

    def _wake(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def _ask_to_end(self) -> None:
        """Close the worker's input, at which it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def describe_exit(code: int) -> str:
    """How a process ended, by its return code."""
    return f"exited with status {code}" if code >= 0 else f"killed by signal {-code}"
