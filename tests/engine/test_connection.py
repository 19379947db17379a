"""The socket to a worker process."""

import asyncio
import select
from pathlib import Path

import msgspec
import zmq

from model.description import RunnerOptions
from server.engine.connection import Connection
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
