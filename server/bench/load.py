"""Main of a client process: sends its share of a load and says what it saw.

    python -m server.bench.load

reads a LoadPlan from its input, warms the server up, writes a line, waits for a line, and writes what it saw. It ends
with its input.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from threading import Thread

import msgspec
import uvloop

from server.bench.answer import Seen, ask
from server.bench.http import Connections, Target
from server.bench.workload import Common, Message, Session


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does."""

    base_url: str
    api_key: str
    common: Common
    warm_up: list[Session]
    sessions: list[Session]
    concurrency: int
    """Streams of a closed loop: the next session of each waits for the end of its last."""
    arrivals: list[float] | None = None
    """For an open loop: when each session begins, in seconds from the start, however the server keeps up."""


async def run_sessions(plan: LoadPlan, connections: Connections, started_at: float) -> list[Seen]:
    """Send all sessions of the plan; the start is by the monotonic clock. Never raises for a request that fails."""
    results: list[Seen] = []
    if plan.arrivals is not None:
        # Not one task that walks through the arrivals: a late one would make the next late.
        starts = zip(plan.sessions, plan.arrivals, strict=True)
        await asyncio.gather(
            *(_run_at(plan.common, session, connections, started_at + at, results) for session, at in starts)
        )
        return results
    waiting = iter(plan.sessions)
    streams = (_run_all(plan.common, waiting, connections, results) for _ in range(plan.concurrency))
    await asyncio.gather(*streams)
    return results


async def _run_all(common: Common, waiting: Iterator[Session], connections: Connections, results: list[Seen]) -> None:
    for session in waiting:
        await _run(common, session, connections, time.monotonic(), results)


async def _run_at(
    common: Common, session: Session, connections: Connections, due_at: float, results: list[Seen]
) -> None:
    await asyncio.sleep(due_at - time.monotonic())
    await _run(common, session, connections, due_at, results)


async def _run(common: Common, session: Session, connections: Connections, due_at: float, results: list[Seen]) -> None:
    history: list[Message] = []
    for turn in session.turns:
        seen, text = await ask(connections, common.request(turn, history), due_at)
        results.append(seen)
        if seen.error:
            return
        history += [*turn.messages, {"role": "assistant", "content": text}]
        due_at = seen.ended_at


async def _main() -> None:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the parent has gone
    plan = msgspec.json.decode(line, type=LoadPlan)
    start = _start_time()
    connections = Connections(Target.parse(plan.base_url, plan.api_key))
    warm_up = msgspec.structs.replace(plan, sessions=plan.warm_up, arrivals=None)
    failed = [seen.error for seen in await run_sessions(warm_up, connections, time.monotonic()) if seen.error]
    sys.stdout.buffer.write(msgspec.json.encode(failed[:1]) + b"\n")
    sys.stdout.buffer.flush()
    results = await run_sessions(plan, connections, await start)
    sys.stdout.buffer.write(msgspec.msgpack.encode(results))
    connections.close()


def _start_time() -> asyncio.Future[float]:
    """The number in the next line of the input; where the input ends, before or after it, the process does."""
    loop = asyncio.get_running_loop()
    start: asyncio.Future[float] = loop.create_future()

    def watch() -> None:
        if line := sys.stdin.buffer.readline():
            loop.call_soon_threadsafe(start.set_result, float(line))
            os.read(0, 1)
        os._exit(0)

    Thread(target=watch, name="parent-watch", daemon=True).start()
    return start


if __name__ == "__main__":
    uvloop.run(_main())
