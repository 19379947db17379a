"""A load from several client processes at once."""

import subprocess
import time
from contextlib import ExitStack
from typing import IO

import msgspec

from server.bench.answer import Seen
from server.bench.load import LoadPlan
from server.child import child_command
from server.command import CommandFailed

# Enough for each process to have read its line before the first request is due.
_START_DELAY_S = 0.05
_DIED = "a client process died; its words are above"


class LoadFailed(CommandFailed):
    """The load could not be run; the text says why."""


def run_load(plan: LoadPlan, num_processes: int = 1) -> list[Seen]:
    """Run the plan from this many processes, each with its share, all beginning at once. Raises LoadFailed."""
    with ExitStack() as stack:
        clients = [stack.enter_context(_Client(share)) for share in shares(plan, num_processes)]
        for client in clients:
            client.wait_until_warm()
        started_at = time.monotonic() + _START_DELAY_S
        for client in clients:
            client.start(started_at)
        return [seen for client in clients for seen in client.results()]


def shares(plan: LoadPlan, count: int) -> list[LoadPlan]:
    """The plan dealt out: each n-th session, and as many of the streams at once."""
    return [
        msgspec.structs.replace(
            plan,
            warm_up=plan.warm_up[number::count],
            sessions=plan.sessions[number::count],
            concurrency=(plan.concurrency - number - 1) // count + 1,
            arrivals=None if plan.arrivals is None else plan.arrivals[number::count],
        )
        for number in range(count)
    ]


class _Client:
    """One process."""

    def __init__(self, plan: LoadPlan) -> None:
        self._process = subprocess.Popen(
            child_command("server.bench.load"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process, with which its input ends
        )
        self._tell(msgspec.json.encode(plan))

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_warm(self) -> None:
        line = self._output.readline()
        if not line:
            raise LoadFailed(_DIED)
        for error in msgspec.json.decode(line, type=list[str]):
            raise LoadFailed(f"a request of the warm-up failed: {error}")

    def start(self, started_at: float) -> None:
        self._tell(repr(started_at).encode())

    def results(self) -> list[Seen]:
        data = self._output.read()
        if self._process.wait() != 0:
            raise LoadFailed(_DIED)
        return msgspec.msgpack.decode(data, type=list[Seen])

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LoadFailed(_DIED) from None
