"""Engines of several API processes that are one: requests over the hub's socket to a real engine, and its news back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from model.batch import SamplingParams
from model.grammar import Vocabulary
from server.engine import client as client_module
from server.engine.client import EngineClient
from server.engine.interface import Generation
from server.engine.messages import Tokens
from server.errors import Draining, EngineDead, NotReady, QueueFull
from server.hub import relay as relay_module
from server.hub.messages import Counts
from server.hub.relay import Relay
from server.hub.remote_engine import RemoteEngine
from tests.engine.fake_connection import MODEL, FakeConnection, after_steps, in_turn
from tests.sim.fake_runner import solo

PARAMS = SamplingParams(max_tokens=20, seed=5)
MAX_WAITING = 4


def prompt(number: int) -> list[int]:
    return [number * 100 + position for position in range(6)]


async def read(generation: Generation) -> tuple[dict[int, list[int]], dict[int, str]]:
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    async for output in generation:
        tokens.setdefault(output.index, []).extend(output.token_ids)
        if output.finish_reason is not None:
            reasons[output.index] = output.finish_reason
    return tokens, reasons


async def generate(engine: RemoteEngine, number: int, num_choices: int = 1) -> tuple[dict, dict]:
    async with engine.generate(prompt(number), PARAMS, num_choices=num_choices) as generation:
        return await read(generation)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Hub:
    """The client, its relay and the engines of two API processes, all in this one."""

    def __init__(self, connections: list[FakeConnection], folder: Path) -> None:
        self.client = EngineClient(in_turn(connections), max_waiting=MAX_WAITING, hang_timeout_s=60)
        self.ups: list[int] = []
        address = f"ipc://{folder}/hub"
        self.hanging: list[int] = []
        self.relay = Relay(self.client, address, self.ups.append, lambda serial, reason: None, self.hanging.append)
        self.engines = [RemoteEngine(address, serial) for serial in (1, 2)]

    @asynccontextmanager
    async def running(self, vocabulary: Vocabulary | None = None) -> AsyncIterator[None]:
        relaying = asyncio.create_task(self.relay.run())
        for serial, engine in enumerate(self.engines, 1):
            self.relay.expect(serial)
            engine.connect()
            await engine.start(lambda info: vocabulary)
        await until(lambda: len(self.ups) == 2)
        try:
            yield
        finally:
            for engine in self.engines:
                await engine.stop()
                engine.hang_up()
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
            await self.client.stop()


def run(hub: Hub, body: Callable[[], Awaitable[None]], vocabulary: Vocabulary | None = None) -> None:
    async def main() -> None:
        async with hub.running(vocabulary), asyncio.timeout(20):
            await hub.client.start()
            await until(lambda: all(engine.model is not None for engine in hub.engines))
            await until(lambda: all(engine.status.phase == "ready" for engine in hub.engines))
            await body()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RESTART_DELAYS_S", (0.0,) * len(client_module.RESTART_DELAYS_S))


def test_choices_of_both_processes_are_the_tokens_of_their_solo_runs(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        runs = [generate(engine, number, num_choices=2) for number, engine in enumerate(hub.engines * 2)]
        for number, (tokens, reasons) in enumerate(await asyncio.gather(*runs)):
            assert tokens == {index: solo(prompt(number), PARAMS, index) for index in range(2)}
            assert reasons == {0: "length", 1: "length"}
        await until(lambda: [engine.status.num_in_flight for engine in hub.engines] == [0, 0])

    run(hub, body)


@pytest.mark.parametrize("steps", [0, 3, 12])
def test_requests_of_both_processes_go_on_in_a_new_worker_where_they_stood(tmp_path: Path, steps: int) -> None:
    hub = Hub([FakeConnection(after_steps(steps)), FakeConnection()], tmp_path)

    async def body() -> None:
        results = await asyncio.gather(*(generate(engine, number) for number, engine in enumerate(hub.engines)))
        for number, (tokens, _) in enumerate(results):
            assert tokens == {0: solo(prompt(number), PARAMS)}
        await until(lambda: [engine.status.num_restarts for engine in hub.engines] == [1, 1])

    run(hub, body)


def test_what_is_known_of_the_prompt_comes_with_the_first_token(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)
    params = SamplingParams(max_tokens=6, seed=5, prompt_logprobs=1)

    async def body() -> None:
        await generate(hub.engines[0], 1)
        began = time.monotonic()
        async with hub.engines[1].generate(prompt(1), PARAMS) as generation:
            first = await anext(generation)
        assert first.num_cached == MODEL.block_size
        assert began < first.started_at < time.monotonic()
        async with hub.engines[1].generate(prompt(1), params) as generation:
            outputs = [output async for output in generation]
        assert [entry.chosen for entry in outputs[0].prompt_logprobs] == [-float(token) for token in prompt(1)[1:]]

    run(hub, body)


def test_all_processes_share_the_places_and_a_refusal_says_what_it_says_in_one_process(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)
    limit = MODEL.max_num_seqs + MAX_WAITING

    async def body() -> None:
        first, second = hub.engines
        async with first.generate(prompt(1), SamplingParams(max_tokens=150), num_choices=limit):
            with pytest.raises(QueueFull, match=f"^{limit} of {limit} places are taken and 1 more were asked for$"):
                await generate(second, 2)
        await until(lambda: hub.client.status.num_in_flight == 0)
        assert (await generate(second, 2))[0] == {0: solo(prompt(2), PARAMS)}
        hub.client.drain()
        with pytest.raises(Draining, match=r"^the server is shutting down$"):
            await generate(first, 3)

    run(hub, body)


def test_a_process_that_ends_takes_its_requests_along_and_no_others(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        first, second = hub.engines
        async with first.generate(prompt(1), SamplingParams(max_tokens=150), num_choices=4) as doomed:
            await anext(doomed)
            other = asyncio.create_task(generate(second, 2))
            await until(lambda: hub.client.status.num_in_flight == 5)
            hub.relay.forget(1)
            assert hub.client.status.num_in_flight == 1
            assert (await other)[0] == {0: solo(prompt(2), PARAMS)}
            await until(lambda: hub.client.status.num_in_flight == 0)
            assert hub.client.status.stats.num_blocks_used == 0

    run(hub, body)


def test_leaving_early_and_finishing_one_choice_abort_in_the_hub(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        engine = hub.engines[0]
        async with engine.generate(prompt(1), SamplingParams(max_tokens=150), num_choices=3) as generation:
            await anext(generation)
            generation.finish(1)
            await until(lambda: hub.client.status.num_in_flight == 2)
        await until(lambda: hub.client.status.num_in_flight == 0)

    run(hub, body)


def test_requests_before_the_model_is_there_and_after_it_is_dead_are_refused(tmp_path: Path) -> None:
    hub = Hub([FakeConnection(failure="no memory")], tmp_path)

    async def main() -> None:
        async with hub.running(), asyncio.timeout(20):
            with pytest.raises(NotReady, match="the model is not ready yet: starting the worker"):
                await generate(hub.engines[0], 1)
            await hub.client.start()
            await until(lambda: hub.engines[0].status.phase == "dead")
            with pytest.raises(EngineDead, match="the model worker is not running: no memory"):
                await generate(hub.engines[0], 1)

    asyncio.run(main())


def test_the_worker_is_told_the_tokens_once_before_any_request(tmp_path: Path) -> None:
    connection = FakeConnection()
    sent: list[object] = []
    take = connection.send
    connection.send = lambda message: (sent.append(message), take(message))
    hub = Hub([connection], tmp_path)
    vocabulary = Vocabulary([b"a"], [], [])

    async def body() -> None:
        await asyncio.gather(*(generate(engine, number) for number, engine in enumerate(hub.engines)))
        assert sent[0] == Tokens(vocabulary)
        assert [type(message) for message in sent].count(Tokens) == 1

    run(hub, body, vocabulary)


def test_prompts_found_in_the_cache_and_the_time_they_take_are_known_in_every_process(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        first, second = hub.engines
        await generate(first, 1)
        assert await second.num_cached(prompt(1), "") == MODEL.block_size
        first.pace.note(100, 0.5, 0.25)
        await until(lambda: second.pace.expected_ttft_s(100, is_queue_empty=False) is not None)
        assert second.pace == first.pace

    run(hub, body)


def test_counts_are_added_up_over_processes_and_those_of_a_dead_one_stay(tmp_path: Path) -> None:
    hub = Hub([FakeConnection()], tmp_path)
    text = "# HELP a_total A\n# TYPE a_total counter\na_total %s\n"

    async def body() -> None:
        first, second = hub.engines
        assert await first.all_counts(text % "1.0") == ["", text % "1.0", ""]
        assert await second.all_counts(text % "2.0") == ["", text % "1.0", text % "2.0"]
        hub.relay.forget(1)
        hub.relay.expect(3)
        assert await second.all_counts(text % "4.0") == [text % "1.0", text % "4.0", ""]

    run(hub, body)


def test_a_process_that_falls_silent_hangs_and_one_that_says_something_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_SILENCE_S", 10 * relay_module.STATUS_PERIOD_S)
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        hub.relay.expect(3)  # not up yet: it may take as long as it likes
        while hub.hanging != [1, 1]:
            hub.engines[1].send(Counts(""))
            await asyncio.sleep(0.01)

    run(hub, body)


def test_silence_while_the_hub_was_stopped_is_no_sign_of_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_SILENCE_S", 10 * relay_module.STATUS_PERIOD_S)
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        time.sleep(11 * relay_module.STATUS_PERIOD_S)
        await asyncio.sleep(2 * relay_module.STATUS_PERIOD_S)
        assert hub.hanging == []

    run(hub, body)


def test_a_message_that_can_not_be_dealt_with_is_logged_and_the_next_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub([FakeConnection()], tmp_path)

    async def body() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(hub.client, "admit", None)
            lost = asyncio.create_task(generate(hub.engines[0], 1))
            await until(lambda: "'NoneType' object is not callable" in caplog.text)
        assert (await generate(hub.engines[0], 2))[0] == {0: solo(prompt(2), PARAMS)}
        lost.cancel()

    run(hub, body)
