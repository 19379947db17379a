"""The socket to a worker process."""

import asyncio
import os
import select
import signal
import time
from pathlib import Path

import msgspec
import pytest
import zmq

from model.description import RunnerOptions
from server.engine.connection import Connection, WorkerDied
from server.engine.messages import Abort, Failed, Loading, WorkerConfig


def test_a_message_that_arrives_while_one_is_sent_is_not_overlooked(tmp_path: Path) -> None:
    """libzmq tells of news once, and whatever is called first on the socket learns of them: here, the send."""
    hello, news = Loading("hello", 0.0), Loading("news", 0.5)

    async def run() -> None:
        config = WorkerConfig(runner=RunnerOptions(model_dir=str(tmp_path / "no model is here")))
        async with Connection(config) as connection:
            with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
                peer.connect(connection._address)
                peer.send(msgspec.msgpack.encode(hello))
                # Afterwards both are connected, and the worker has nothing more to say.
                greetings = [await connection.receive(60) for _ in range(2)]
                assert {type(message) for message in greetings} == {Loading, Failed}

                receiving = asyncio.create_task(connection.receive(5))
                await asyncio.sleep(0)
                peer.send(msgspec.msgpack.encode(news))
                assert select.select([connection._socket._socket.get(zmq.FD)], [], [], 10)[0]
                connection.send(Abort(sequence_ids=[]))
                assert await receiving == news

    asyncio.run(run())


def test_what_is_sent_to_a_worker_that_has_just_died_is_dropped(tmp_path: Path) -> None:
    """libzmq knows of the death at once, the event loop only in its next turn."""

    async def run() -> None:
        config = WorkerConfig(runner=RunnerOptions(model_dir=str(tmp_path / "no model is here")))
        async with Connection(config) as connection:
            assert isinstance(await connection.receive(60), Failed)
            os.kill(connection.pid, signal.SIGKILL)
            time.sleep(0.3)
            connection.send(Abort(sequence_ids=[]))
            with pytest.raises(WorkerDied):
                await connection.receive(60)

    asyncio.run(run())
