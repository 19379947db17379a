"""`nexttoken serve`: puts together what the settings ask for, and runs it."""

import contextlib
import logging
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvloop

import model.demo
from model.config import ModelConfig
from model.description import RunnerOptions
from model.draft import draft_config
from model.errors import ModelError
from model.families.registry import config_from_directory
from model.hub import resolve
from server.command import suggestion
from server.engine.client import EngineClient
from server.engine.connection import Connection, WorkerConnection
from server.engine.messages import WorkerConfig
from server.process import keep_pauses_short, set_up_logging
from server.service import (
    EXIT_CANNOT_SERVE_MODEL,
    EXIT_CANNOT_START,
    STOP_SIGNALS,
    CannotStart,
    Front,
    Service,
    refuse,
)
from server.settings import BUNDLED_MODEL, Settings, unknown_variables, variable
from server.store import ChatStore
from server.version import VERSION

logger = logging.getLogger(__name__)

Connect = Callable[[WorkerConfig], WorkerConnection]


def serve(settings: Settings, connect: Connect = Connection) -> int:
    """Serve until a signal comes. Returns the process's exit code. `connect` starts a worker."""
    began = time.monotonic()
    for number in STOP_SIGNALS:
        # Until the service handles them: process 1 would ignore SIGTERM, and Ctrl-C would print a traceback.
        signal.signal(number, _exit)
    set_up_logging(settings.log_level)
    for name in unknown_variables():
        similar = suggestion(name, [field.upper() for field in Settings.model_fields], variable(""))
        logger.warning("event=unknown_variable name=%s%s", name, similar)
    try:
        with contextlib.ExitStack() as cleanup:
            service = _set_up_service(settings, connect, cleanup)
            keep_pauses_short()
            return uvloop.run(service.run(began))
    except CannotStart as error:
        return refuse(str(error), EXIT_CANNOT_START)
    except ModelError as error:
        return refuse(str(error), EXIT_CANNOT_SERVE_MODEL)


def _set_up_service(settings: Settings, connect: Connect, cleanup: contextlib.ExitStack) -> Service:
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
    store = _open_store(settings.store_path)
    if settings.api_processes == 1:
        front = _front_here(settings, directory, draft_directory, engine, store, listener)
    else:
        front = _front_in_processes(settings, directory, draft_directory, engine, listener, cleanup)
    return Service(settings, engine, front, listener.getsockname()[:2], cleanup.close)


def _front_here(
    settings: Settings,
    directory: Path,
    draft_directory: Path | None,
    engine: EngineClient,
    store: ChatStore | None,
    listener: socket.socket,
) -> Front:
    # Only here: with processes for it, this one needs nothing that knows HTTP or text.
    from server.app import create_app
    from server.http_server import HttpServer, ListeningFront
    from server.loading import lifespan_of, load_served
    from server.served import ServedModels

    served = load_served(settings, directory, draft_directory, engine, created=int(time.time()))
    app = create_app(
        settings, ServedModels([served]), version=VERSION, store=store, lifespan=lifespan_of(engine, served)
    )
    return ListeningFront(HttpServer(app, settings.keep_alive_s), listener)


def _front_in_processes(
    settings: Settings,
    directory: Path,
    draft_directory: Path | None,
    engine: EngineClient,
    listener: socket.socket,
    cleanup: contextlib.ExitStack,
) -> Front:
    from server.hub.messages import ApiProcessConfig
    from server.hub.processes import ApiProcesses

    config = ApiProcessConfig(
        settings=settings.model_dump(mode="json"),
        directory=str(directory),
        draft_directory=None if draft_directory is None else str(draft_directory),
        created=int(time.time()),
    )
    try:
        processes = ApiProcesses(config, settings.api_processes, engine, listener)
    except OSError as error:
        need = "the processes' sockets need a writable folder with a short path"
        raise CannotStart(f"{need}; set TMPDIR to one ({error})") from error
    cleanup.callback(processes.close)
    return processes


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


def _open_store(path: Path | None) -> ChatStore | None:
    """The place for stored chats, made here if it isn't there: processes that share it find it ready."""
    try:
        return None if path is None else ChatStore(path)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"--store-path {path} can't be used: {error}") from error
