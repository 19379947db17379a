"""`nexttoken serve`: starts the worker, listens, tells the operator what happens, and ends in good order."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
import uvloop

import model.demo
from model.config import ModelConfig
from model.description import RunnerOptions
from model.draft import draft_config
from model.errors import ModelError, UnsupportedModel
from model.families.registry import config_from_directory
from model.hub import resolve
from server.banner import banner
from server.command import suggestion
from server.engine.client import EngineClient
from server.engine.connection import Connection, WorkerConnection
from server.engine.messages import ModelInfo, WorkerConfig
from server.http_protocol import HttpProtocol
from server.settings import BUNDLED_MODEL, Settings, unknown_variables, variable
from server.version import VERSION

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

EXIT_CANNOT_START = 1
EXIT_CANNOT_SERVE_MODEL = 2
EXIT_ENDED_AT_ONCE = 3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long responses may take to leave once the engine has nothing more to say.
FLUSH_TIMEOUT_S = 5
# While a thread reads a large body, the event loop asks for the interpreter after each call to the system, and waits
# this long for it, several times for one token. With Python's own 5 ms a body of 1 MB made pauses in every stream.
SWITCH_INTERVAL_S = 0.0005


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would close the port first and end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us."""
        yield


class CannotStart(Exception):
    """The server can't start here; the message is for the operator."""


Connect = Callable[[WorkerConfig], WorkerConnection]


def serve(settings: Settings, connect: Connect = Connection) -> int:
    """Serve until a signal comes. Returns the process's exit code. `connect` starts a worker."""
    began = time.monotonic()
    for number in STOP_SIGNALS:
        # Until the service handles them: process 1 would ignore SIGTERM, and Ctrl-C would print a traceback.
        signal.signal(number, _exit)
    _set_up_logging(settings.log_level)
    for name in unknown_variables():
        similar = suggestion(name, [field.upper() for field in Settings.model_fields], variable(""))
        logger.warning("event=unknown_variable name=%s%s", name, similar)
    try:
        with contextlib.ExitStack() as cleanup:
            service = _set_up_service(settings, connect, cleanup)
            _keep_pauses_short()
            return uvloop.run(service.run(began))
    except CannotStart as error:
        return _refuse(str(error), EXIT_CANNOT_START)
    except ModelError as error:
        return _refuse(str(error), EXIT_CANNOT_SERVE_MODEL)


def _set_up_service(settings: Settings, connect: Connect, cleanup: contextlib.ExitStack) -> "_Service":
    """Everything but the running. Raises CannotStart or ModelError."""
    listener = cleanup.enter_context(_listen(settings.host, settings.port))
    directory = model_directory(settings)
    # What can't be served is known before anything is started.
    draft_directory = _draft_directory(settings, config_from_directory(directory))
    config = worker_config(settings, directory, draft_directory)
    # The worker starts while the rest is imported and set up here.
    first = _first_connection(connect, config)
    cleanup.callback(first.close)
    connections = iter([first])
    engine = EngineClient(
        lambda: next(connections, None) or connect(config),
        max_waiting=settings.max_waiting,
        hang_timeout_s=settings.hang_timeout_s,
    )
    return _Service(
        settings, _create_app(settings, directory, draft_directory, engine), engine, listener, cleanup.close
    )


def _keep_pauses_short() -> None:
    """Bound what one request's work in this process can hold up the event loop."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What was made so far stays; going through it again, whenever a large body has made many objects, took 0.2 s.
    gc.collect()
    gc.freeze()


class _Service:
    """One run of the server, from listening to the end."""

    def __init__(
        self,
        settings: Settings,
        app: "FastAPI",
        engine: EngineClient,
        listener: socket.socket,
        clean_up: Callable[[], None],
    ) -> None:
        """`clean_up` ends the worker, for an end without ceremony."""
        self._settings = settings
        self._clean_up = clean_up
        self._engine = engine
        self._listener = listener
        self._drain: asyncio.Task[None] | None = None
        self._http = HttpServer(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=FLUSH_TIMEOUT_S,
            )
        )

    async def run(self, began: float) -> int:
        """Listen, report the start, serve, drain. Returns the exit code. `began`: when, on the monotonic clock."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        report = asyncio.create_task(self._report_start(began))
        await self._http.serve(sockets=[self._listener])
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
            self._http.should_exit = True

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
            warn_of_what_is_off(self._engine.model)
            address = self._listener.getsockname()[:2]
            print(banner(self._settings, self._engine.model, address, seconds), flush=True)
        elif status.phase == "dead":
            _refuse(status.detail, EXIT_CANNOT_SERVE_MODEL)
            self._http.should_exit = True


def warn_of_what_is_off(info: ModelInfo) -> None:
    """A line for each fast way to compute that the start could not prove."""
    for check in info.checks:
        if not check.is_used:
            logger.warning("event=switched_off what=%r reason=%r", check.part, check.note)


def _create_app(settings: Settings, directory: Path, draft_directory: Path | None, engine: EngineClient) -> "FastAPI":
    from server.app import create_app
    from server.served import ServedModel, ServedModels
    from server.store import ChatStore
    from server.text.dialect import dialect_of
    from server.text.template import ChatTemplate, TemplateError
    from server.text.tokenizer import Tokenizer, TokenizerError

    try:
        tokenizer = Tokenizer.load(directory)
        template = ChatTemplate.load(directory, tokenizer.special_tokens, tokenizer.control_tokens)
        difference = None if draft_directory is None else tokenizer.difference(Tokenizer.load(draft_directory))
    except (TokenizerError, TemplateError) as error:
        raise UnsupportedModel(str(error)) from error
    if difference is not None:
        raise UnsupportedModel(f"--draft-model {draft_directory} has other tokens than the model: {difference}")
    served_model = ServedModel(
        names=settings.served_model_name or (settings.model,),
        tokenizer=tokenizer,
        template=template,
        engine=engine,
        created=int(time.time()),
        dialect=dialect_of(template, settings.tool_call_parser, settings.reasoning_parser),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: "FastAPI") -> AsyncIterator[None]:
        await engine.start(served_model.vocabulary)
        yield
        await engine.stop()

    try:
        store = None if settings.store_path is None else ChatStore(settings.store_path)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"--store-path {settings.store_path} can't be used: {error}") from error
    return create_app(settings, ServedModels([served_model]), version=VERSION, store=store, lifespan=lifespan)


def model_directory(settings: Settings) -> Path:
    """Where the model is; a Hugging Face model is downloaded first. Raises ModelError."""
    if settings.model == BUNDLED_MODEL:
        return Path(model.demo.__path__[0]) / "bundled"
    return resolve(settings.model, settings.revision)


def _draft_directory(settings: Settings, config: ModelConfig) -> Path | None:
    """Where the draft model is, if one is set. Raises ModelError, also for one that can't guess for the model."""
    if settings.draft_model is None:
        return None
    directory = resolve(settings.draft_model)
    draft_config(directory, config, min(settings.max_model_len or config.max_model_len, config.max_model_len))
    return directory


def worker_config(settings: Settings, directory: Path, draft_directory: Path | None = None) -> WorkerConfig:
    """What a worker is told of the settings."""
    # Switched off, guesses take no memory either.
    has_draft = settings.speculation and draft_directory is not None
    options = RunnerOptions(
        model_dir=str(directory),
        draft_model_dir=str(draft_directory) if has_draft else None,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        kv_cache_dtype=settings.kv_cache_dtype,
        kernels=settings.kernels,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_step_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        kv_cache_bytes=None if settings.kv_cache_memory_bytes is None else int(settings.kv_cache_memory_bytes),
        gpu_memory_utilization=settings.gpu_memory_utilization,
        num_threads=settings.num_threads,
    )
    return WorkerConfig(runner=options, prefix_caching=settings.enable_prefix_caching, speculation=settings.speculation)


def _set_up_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # What uvicorn tells of its start and end, the lines below tell better.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _first_connection(connect: Connect, config: WorkerConfig) -> WorkerConnection:
    try:
        return connect(config)
    except OSError as error:
        raise CannotStart(f"the worker's socket needs a writable folder; set TMPDIR to one ({error})") from error


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise CannotStart(f"can't listen on {host}:{port}: {reason}") from error


def _refuse(reason: str, code: int) -> int:
    print(f"nexttoken serve: {' '.join(reason.split())}", file=sys.stderr, flush=True)
    return code
