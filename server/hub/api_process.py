"""Main of an API process: HTTP in front of an engine that the hub runs.

    python -m server.hub.api_process

The first line of its standard input is an ApiProcessConfig as JSON, which other users of the machine can't see there,
for it holds the API keys. It ends in good order when the hub closes the socket over which connections come, and at once
when its input ends, which is when the hub closes it or goes away.
"""

import asyncio
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from model.errors import ModelError
from server.app import create_app
from server.child import end_with_parent
from server.engine.messages import Failed
from server.hub.dealt_http import DealtHttpServer
from server.hub.messages import ApiProcessConfig, Counts
from server.hub.remote_engine import RemoteEngine
from server.hub.siblings import PrivateSockets
from server.loading import lifespan_of, load_served
from server.metrics import Metrics
from server.process import keep_pauses_short, set_up_logging
from server.served import ServedModels
from server.settings import Settings
from server.store import ChatStore
from server.version import VERSION

# How old the counts of other processes are at most that a process shows.
COUNTS_PERIOD_S = 1.0


def main() -> None:
    """Serve until the hub has no more connections, or goes away."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ApiProcessConfig)
    end_with_parent()
    settings = Settings(**config.settings)
    set_up_logging(settings.log_level, f"api-{config.place}")
    uvloop.run(_run(config, settings))


async def _run(config: ApiProcessConfig, settings: Settings) -> None:
    engine = RemoteEngine(config.hub, config.serial)
    engine.connect()
    try:
        server, metrics = _set_up(config, settings, engine)
    except ModelError as error:
        engine.send(Failed(str(error)))
        await asyncio.Event().wait()  # until the hub has read why, and closes our input
        return
    keep_pauses_short()
    telling = asyncio.create_task(_tell_counts(engine, metrics))
    await server.serve()
    telling.cancel()
    engine.hang_up()


def _set_up(config: ApiProcessConfig, settings: Settings, engine: RemoteEngine) -> tuple[DealtHttpServer, Metrics]:
    draft_directory = None if config.draft_directory is None else Path(config.draft_directory)
    model = load_served(
        settings, Path(config.directory), draft_directory, engine, created=config.created, pace=engine.pace
    )
    served = ServedModels([model])
    metrics = Metrics(served.engines)
    app = create_app(
        settings,
        served,
        version=VERSION,
        store=None if settings.store_path is None else ChatStore(settings.store_path),
        lifespan=lifespan_of(engine, model),
        metrics=metrics,
        siblings=PrivateSockets(config.place, config.sockets, engine.all_counts),
    )
    dealt, private = socket.socket(fileno=config.dealt_fd), socket.socket(fileno=config.private_fd)
    return DealtHttpServer(app, settings.keep_alive_s, dealt, private), metrics


async def _tell_counts(engine: RemoteEngine, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(COUNTS_PERIOD_S)
        engine.send(Counts(metrics.counts()))


if __name__ == "__main__":
    main()
