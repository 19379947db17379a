"""The API processes: started, watched, replaced and ended by the hub."""

import asyncio
import logging
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec

from model.errors import UnsupportedModel
from server.child import child_command
from server.engine.client import EngineClient
from server.engine.connection import describe_exit
from server.hub.dealer import Dealer
from server.hub.messages import ApiProcessConfig
from server.hub.relay import Relay
from server.service import CannotStart

logger = logging.getLogger(__name__)

# One that lived shorter than this is replaced after a pause, longer each time: a start takes seconds of a core.
YOUNG_S = 10.0
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Beyond what its responses may take to leave.
EXIT_GRACE_S = 8.0


class ApiProcesses:
    """HTTP in several processes, which share one port and one engine (`service.Front`)."""

    def __init__(self, config: ApiProcessConfig, num: int, engine: EngineClient, listener: socket.socket) -> None:
        """`config` lacks what each process has of its own. Raises OSError where there can be no sockets."""
        self._children: dict[int, _ApiProcess] = {}
        """By place."""
        self._private: list[socket.socket] = []
        """The hub's own, so that what connects while a process is replaced waits for the next one."""
        # mkdtemp makes it 0700: nobody else can reach the sockets.
        self._directory = Path(tempfile.mkdtemp(prefix="nexttoken-"))
        paths = [f"{self._directory}/api-{place}" for place in range(num)]
        try:
            for path in paths:
                self._private.append(_listen(path))
        except OSError:
            self.close()
            raise
        self._config = msgspec.structs.replace(config, hub=f"ipc://{self._directory}/hub", sockets=paths)
        self._engine = engine
        self._dealer = Dealer(listener)
        self._relay = Relay(
            engine, self._config.hub, on_up=self._on_up, on_failed=self._on_failed, on_silent=self._on_silent
        )
        self._serials = count(1)
        self._ups: set[int] = set()
        """The serial numbers of those that were ever up."""
        self._ending = asyncio.Event()
        self._failure: Exception | None = None

    async def serve(self) -> None:
        """Answer until told to stop. Raises CannotStart and UnsupportedModel."""
        await self._engine.start()
        async with asyncio.TaskGroup() as group:
            relay = group.create_task(self._relay.run())
            keeping = [group.create_task(self._keep(place)) for place in range(len(self._private))]
            await self._ending.wait()
            self._dealer.close()
            for child in self._children.values():
                # One that isn't up has nothing to finish, and would not hear.
                child.end() if child.serial in self._ups else child.kill()
            await asyncio.wait(keeping, timeout=EXIT_GRACE_S)
            for child in self._children.values():
                child.kill()
            await asyncio.wait(keeping)
            relay.cancel()
        await self._engine.stop()
        if self._failure is not None:
            raise self._failure

    async def wait_until_up(self) -> None:
        """Until all are."""
        while len(self._ups) < len(self._private):
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Have `serve` return once what is being answered has left."""
        self._ending.set()

    def close(self) -> None:
        """End all processes at once, if they still run, and remove the sockets."""
        for child in self._children.values():
            child.close()
        for listener in self._private:
            listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep(self, place: int) -> None:
        """Have a process in this place, until the end."""
        loop = asyncio.get_running_loop()
        pauses = iter(PAUSES_S)
        while not self._ending.is_set():
            started = loop.time()
            try:
                how = await self._run_one(place)
            except OSError as error:  # no memory for a process, or no file descriptors
                how = f"couldn't be started ({error})"
            if self._ending.is_set():
                return
            if not self._ups:
                self._fail(CannotStart(f"an API process {how} before it was ready; what it said is above"))
                return
            logger.error("event=api_process_died process=api-%d reason=%r", place, how)
            if loop.time() - started > YOUNG_S:
                pauses = iter(PAUSES_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(next(pauses, PAUSES_S[-1])):
                    await self._ending.wait()

    async def _run_one(self, place: int) -> str:
        """Start a process, and return how it ended. Raises OSError."""
        serial = next(self._serials)
        config = msgspec.structs.replace(self._config, place=place, serial=serial)
        child = _ApiProcess(config, self._private[place])
        self._children[place] = child
        self._relay.expect(serial)
        code = await child.wait()
        self._dealer.leave(child.control)
        child.close()
        self._relay.forget(serial)
        return describe_exit(code)

    def _on_up(self, serial: int) -> None:
        self._ups.add(serial)
        self._dealer.join(self._child(serial).control)

    def _on_failed(self, serial: int, reason: str) -> None:
        if not self._ups:
            self._fail(UnsupportedModel(reason))
            return
        # The model's files have changed since the others read them.
        logger.error("event=api_process_failed reason=%r", reason)
        self._child(serial).kill()

    def _on_silent(self, serial: int) -> None:
        child = self._child(serial)
        logger.error("event=api_process_hangs process=api-%d note='it is killed'", child.place)
        child.kill()

    def _child(self, serial: int) -> "_ApiProcess":
        return next(child for child in self._children.values() if child.serial == serial)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
            self._ending.set()


class _ApiProcess:
    """One process, and the socket over which it is dealt connections."""

    def __init__(self, config: ApiProcessConfig, private: socket.socket) -> None:
        self.serial, self.place = config.serial, config.place
        self.control, dealt = socket.socketpair()
        self.control.setblocking(False)
        with dealt:
            fds = (dealt.fileno(), private.fileno())
            config = msgspec.structs.replace(config, dealt_fd=fds[0], private_fd=fds[1])
            self._process = subprocess.Popen(
                child_command("server.hub.api_process"),
                stdin=subprocess.PIPE,
                bufsize=0,  # what a dead one could not be told must not be tried again by `close`
                pass_fds=fds,
                process_group=0,  # Ctrl-C is for this process; a child ignores it, but not yet while it imports
            )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        with suppress(BrokenPipeError):  # it has died, which its reader learns from `wait`
            self._input.write(msgspec.json.encode(config) + b"\n")

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        # Nothing comes from the other end, which nobody else holds.
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(self.control, 1)
        return await asyncio.to_thread(self._process.wait)

    def end(self) -> None:
        """Have it answer what it has begun, then end."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """End it, if it still runs, and close what leads to it."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self.control.close()


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
    except OSError:  # the path is too long
        listener.close()
        raise
    listener.listen()
    listener.setblocking(False)
    return listener
