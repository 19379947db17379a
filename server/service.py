"""One run of the server, from listening to the end: tells the operator what happens, and ends in good order."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol

from server.banner import banner
from server.engine.client import EngineClient
from server.engine.messages import ModelInfo
from server.settings import Settings

logger = logging.getLogger(__name__)

EXIT_CANNOT_START = 1
EXIT_CANNOT_SERVE_MODEL = 2
EXIT_ENDED_AT_ONCE = 3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CannotStart(Exception):
    """The server can't start here; the message is for the operator."""


class Front(Protocol):
    """What answers HTTP, and starts the engine before that."""

    async def serve(self) -> None:
        """Answer until told to stop. Raises CannotStart and ModelError."""

    async def wait_until_up(self) -> None:
        """Until requests are read."""

    def stop(self) -> None:
        """Have `serve` return once what is being answered has left."""


class Service:
    """The engine and its front, with signals and words."""

    def __init__(
        self,
        settings: Settings,
        engine: EngineClient,
        front: Front,
        address: tuple[str, int],
        clean_up: Callable[[], None],
    ) -> None:
        """`address` is what the server listens on. `clean_up` ends other processes, for an end without ceremony."""
        self._settings = settings
        self._engine = engine
        self._front = front
        self._address = address
        self._clean_up = clean_up
        self._drain: asyncio.Task[None] | None = None

    async def run(self, began: float) -> int:
        """Listen, report the start, serve, drain. Returns the exit code. `began`: when, on the monotonic clock."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        report = asyncio.create_task(self._report_start(began))
        try:
            await self._front.serve()
        finally:
            report.cancel()
        if self._drain is None and self._engine.model is None:
            return EXIT_CANNOT_SERVE_MODEL
        return 0

    def _on_signal(self) -> None:
        """Drain at the first signal; end at once at the second."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_and_stop())
        else:
            logger.warning("event=ended_at_once in_flight=%d", self._engine.status.num_in_flight)
            # Not by way of the event loop, where every request would report its end with a traceback.
            self._clean_up()
            os._exit(EXIT_ENDED_AT_ONCE)

    async def _drain_and_stop(self) -> None:
        logger.info(
            "event=draining in_flight=%d at_most_s=%g note='a second signal ends it at once'",
            self._engine.status.num_in_flight,
            self._settings.drain_timeout_s,
        )
        self._engine.drain()
        deadline = asyncio.get_running_loop().time() + self._settings.drain_timeout_s
        while self._engine.status.num_in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        try:
            # What still runs ends with an error now, and its response with an error event.
            await self._engine.stop()
        finally:
            self._front.stop()

    async def _report_start(self, began: float) -> None:
        """Show the progress of the start, then what is served where; end the server if the model can't be served."""
        is_terminal = sys.stderr.isatty()
        shown = ""
        seconds: dict[str, float] = {}
        """By phase."""
        while (status := self._engine.status).phase == "starting":
            seconds[status.detail] = time.monotonic() - began - sum(seconds.values()) + seconds.get(status.detail, 0.0)
            # A terminal sees every percent on one line, a log each phase once.
            line = f"{status.detail} {status.fraction:.0%}" if is_terminal else status.detail
            if line != shown:
                shown = line
                before, after = ("\r\033[K", "") if is_terminal else ("nexttoken: ", "\n")
                print(before + line, end=after, file=sys.stderr, flush=True)
            await asyncio.sleep(0.05)
        if is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if self._engine.model is not None:
            await self._front.wait_until_up()
            warn_of_what_is_off(self._engine.model)
            print(banner(self._settings, self._engine.model, self._address, seconds), flush=True)
        elif status.phase == "dead":
            refuse(status.detail, EXIT_CANNOT_SERVE_MODEL)
            self._front.stop()


def warn_of_what_is_off(info: ModelInfo) -> None:
    """A line for each fast way to compute that the start could not prove."""
    for check in info.checks:
        if not check.is_used:
            logger.warning("event=switched_off what=%r reason=%r", check.part, check.note)


def refuse(reason: str, code: int) -> int:
    """Say in one line why there is no server. Returns the exit code."""
    print(f"nexttoken serve: {' '.join(reason.split())}", file=sys.stderr, flush=True)
    return code
