"""A real worker process with the bundled model, on the other end of its connection."""

import asyncio
import logging
import os
import pickle
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import PIPE, Popen

import msgspec
import pytest
import zmq

from model.batch import SamplingParams
from model.description import RunnerOptions
from server.engine.connection import Connection, WorkerDied
from server.engine.messages import (
    Abort,
    Choice,
    Failed,
    FromWorker,
    Loading,
    Lookup,
    Ready,
    Request,
    StepResult,
    WorkerConfig,
)

BUNDLED = Path(__file__).parents[2] / "model" / "demo" / "bundled"
TIMEOUT_S = 60
NO_END = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)


def config(directory: Path = BUNDLED) -> WorkerConfig:
    options = {"device": "cpu", "dtype": "float32", "num_threads": 1, "max_num_seqs": 4, "kv_cache_bytes": 2**23}
    return WorkerConfig(runner=RunnerOptions(model_dir=str(directory), max_model_len=256, **options))


def with_worker(talk: Callable[[Connection], Awaitable[None]], directory: Path = BUNDLED) -> None:
    async def main() -> None:
        async with Connection(config(directory)) as connection:
            await talk(connection)

    asyncio.run(main())


async def next_message(connection: Connection) -> FromWorker:
    message = await connection.receive(TIMEOUT_S)
    assert message is not None, "the worker is silent"
    return message


async def until_ready(connection: Connection) -> list[FromWorker]:
    """Everything up to and with Ready."""
    messages = [await next_message(connection)]
    while not isinstance(messages[-1], Ready):
        messages.append(await next_message(connection))
    return messages


async def next_step(connection: Connection) -> StepResult:
    message = await next_message(connection)
    assert isinstance(message, StepResult)
    assert message.duration_s > 0
    return message


async def complete(connection: Connection, sequence_id: int, max_tokens: int = 5) -> list[int]:
    params = msgspec.structs.replace(NO_END, max_tokens=max_tokens)
    connection.send(Request(prompt_ids=[1, 20, 30], params=params, choices=[Choice(sequence_id, 0)]))
    token_ids: list[int] = []
    while True:
        step = await next_step(connection)
        token_ids += step.token_ids
        if step.finished:
            return token_ids


class Touch:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_the_worker_tells_its_progress_and_is_ready_once_it_has_run_a_step():
    async def talk(connection: Connection) -> None:
        *before, ready = await until_ready(connection)
        phases = [message.phase for message in before if isinstance(message, Loading)]
        assert len(phases) == len(before)
        assert list(dict.fromkeys(phases)) == ["loading weights", "warming up", "measuring steps"]
        assert isinstance(ready, Ready)
        assert ready.model.max_model_len == 256
        assert len(await complete(connection, 1)) == 5

    with_worker(talk)


def test_the_worker_says_how_much_of_a_prompt_is_cached():
    prompt_ids = list(range(40))

    async def look_up(connection: Connection, lookup_id: int) -> int:
        connection.send(Lookup(lookup_id, prompt_ids))
        while True:
            step = await next_step(connection)
            if step.num_cached:
                return step.num_cached[lookup_id]

    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        assert await look_up(connection, 1) == 0
        params = msgspec.structs.replace(NO_END, max_tokens=1)
        connection.send(Request(prompt_ids=prompt_ids, params=params, choices=[Choice(1, 0)]))
        while not (await next_step(connection)).finished:
            pass
        assert await look_up(connection, 2) == 32, "two blocks of 16"

    with_worker(talk)


def test_ld01_bytes_that_are_no_message_of_ours_are_dropped_unread(tmp_path, capfd):
    touched = tmp_path / "touched"
    good = msgspec.msgpack.encode(Abort([1]))
    garbage = [pickle.dumps(Touch(touched)), b"", b"\x00", b"\xff" * 1000, good[:-1], good + b"x", b'{"type":"Abort"}']
    garbage += [msgspec.msgpack.encode(wrong) for wrong in ({"type": "Ready"}, {"type": "Abort"}, [1], None, 2**63)]

    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        expected = await complete(connection, 1)
        for data in garbage:
            connection._socket.send(data)
        assert await complete(connection, 2) == expected

    with_worker(talk)
    assert not touched.exists()
    assert capfd.readouterr().err.count("dropped a message that is none of ours") == len(garbage)


def test_ld01_a_client_drops_what_no_worker_of_ours_says(tmp_path, caplog):
    touched = tmp_path / "touched"

    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        expected = await complete(connection, 1)
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.connect(connection._address)
            stranger.send(pickle.dumps(Touch(touched)))
            with caplog.at_level(logging.ERROR):
                assert await connection.receive(TIMEOUT_S) is None
        assert await complete(connection, 2) == expected

    with_worker(talk)
    assert not touched.exists()
    assert "event=bad_message_from_worker" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", b"{", "config.json"),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "model.safetensors"),
        ("model.safetensors", None, "safetensors"),
    ],
)
def test_a_broken_checkpoint_is_said_in_one_line_and_the_worker_waits_to_be_ended(tmp_path, name, content, reason):
    for path in (BUNDLED / "config.json", BUNDLED / "model.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)

    async def talk(connection: Connection) -> None:
        message = await next_message(connection)
        while isinstance(message, Loading):
            message = await next_message(connection)
        assert isinstance(message, Failed)
        assert reason in message.reason
        assert "\n" not in message.reason
        assert connection._process.poll() is None

    with_worker(talk, tmp_path)


def test_a_cache_that_is_too_small_is_a_failure_with_both_sizes(tmp_path):
    async def main() -> None:
        options = RunnerOptions(model_dir=str(BUNDLED), device="cpu", kv_cache_bytes=2**20, num_threads=1)
        async with Connection(WorkerConfig(runner=options)) as connection:
            message = await next_message(connection)
            while isinstance(message, Loading):
                message = await next_message(connection)
            assert isinstance(message, Failed)
            assert "1.00 MiB" in message.reason

    asyncio.run(main())


def test_an_abort_frees_the_blocks_at_the_next_step():
    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        choices = [Choice(sequence_id, sequence_id) for sequence_id in range(6)]
        connection.send(Request(prompt_ids=[1] * 40, params=NO_END, choices=choices))
        step = await next_step(connection)
        while step.stats.num_running < 4:
            step = await next_step(connection)
        assert step.stats.num_blocks_used > 0
        assert step.stats.num_waiting == 2
        connection.send(Abort([*range(6), 77]))
        while step.stats.num_running:
            step = await next_step(connection)
        assert (step.stats.num_waiting, step.stats.num_blocks_used, step.finished) == (0, 0, [])
        assert len(await complete(connection, 100)) == 5

    with_worker(talk)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_whole_group_leave_the_worker_to_finish_its_streams(number):
    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        expected = await complete(connection, 1, max_tokens=40)
        params = msgspec.structs.replace(NO_END, max_tokens=40)
        connection.send(Request(prompt_ids=[1, 20, 30], params=params, choices=[Choice(2, 0)]))
        token_ids = (await next_step(connection)).token_ids
        os.kill(connection.pid, number)
        while len(token_ids) < 40:
            token_ids += (await next_step(connection)).token_ids
        assert token_ids == expected

    with_worker(talk)


def test_the_worker_ends_with_status_0_when_its_input_does():
    async def talk(connection: Connection) -> None:
        await until_ready(connection)
        connection._ask_to_end()
        with pytest.raises(WorkerDied, match="status 0"):
            await connection.receive(TIMEOUT_S)

    with_worker(talk)


def test_the_worker_ends_while_it_still_imports(tmp_path):
    arguments = [f"ipc://{tmp_path}/nobody", msgspec.json.encode(config()).decode()]
    worker = Popen([sys.executable, "-m", "server.engine.worker", *arguments], stdin=PIPE, stderr=PIPE)
    _, errors = worker.communicate(timeout=TIMEOUT_S)
    assert (worker.returncode, errors) == (0, b"")
