"""The engine's client over workers that die, hang and refuse."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from msgspec import structs

from model.batch import SamplingParams
from server.engine import client as client_module
from server.engine.client import EngineClient
from server.engine.connection import WorkerDied
from server.engine.interface import Generation
from server.engine.messages import FromWorker, StepResult
from server.errors import Draining, EngineDead, NotReady, QueueFull
from tests.engine.fake_connection import MODEL, FakeConnection, after_steps, in_turn
from tests.sim.fake_runner import solo

PARAMS = SamplingParams(max_tokens=20, seed=5)


def prompt(number: int, length: int = 6) -> list[int]:
    return [number * 100 + position for position in range(length)]


async def read(generation: Generation) -> tuple[dict[int, list[int]], dict[int, str]]:
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    async for output in generation:
        tokens.setdefault(output.index, []).extend(output.token_ids)
        if output.finish_reason is not None:
            reasons[output.index] = output.finish_reason
    return tokens, reasons


async def generate(client: EngineClient, number: int, num_choices: int = 1, length: int = 6) -> tuple[dict, dict]:
    async with client.generate(prompt(number, length), PARAMS, num_choices=num_choices) as generation:
        return await read(generation)


def run(
    connections: list[FakeConnection],
    body: Callable[[EngineClient], Awaitable[None]],
    *,
    wait_for: str = "ready",
    hang_timeout_s: float = 60,
) -> None:
    async def main() -> None:
        client = EngineClient(in_turn(connections), max_waiting=4, hang_timeout_s=hang_timeout_s)
        await client.start()
        async with asyncio.timeout(20):
            while client.status.phase != wait_for:
                await asyncio.sleep(0.001)
            await body(client)
        await client.stop()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RESTART_DELAYS_S", (0.0,) * len(client_module.RESTART_DELAYS_S))


def test_choices_are_the_tokens_of_their_solo_runs() -> None:
    async def body(client: EngineClient) -> None:
        results = await asyncio.gather(*(generate(client, number, num_choices=2) for number in range(3)))
        for number, (tokens, reasons) in enumerate(results):
            assert tokens == {index: solo(prompt(number), PARAMS, index) for index in range(2)}
            assert reasons == {0: "length", 1: "length"}
        assert client.status.num_in_flight == 0

    run([FakeConnection()], body)


@pytest.mark.parametrize("steps", range(0, 20, 3))
def test_requests_go_on_in_a_new_worker_where_they_stood(steps: int) -> None:
    connections = [FakeConnection(after_steps(steps)), FakeConnection()]

    async def body(client: EngineClient) -> None:
        results = await asyncio.gather(*(generate(client, number, num_choices=2) for number in range(3)))
        for number, (tokens, _) in enumerate(results):
            assert tokens == {index: solo(prompt(number), PARAMS, index) for index in range(2)}
        assert client.status.num_restarts == 1
        assert client.status.phase == "ready"

    run(connections, body)


def test_the_new_worker_is_sent_what_was_emitted_so_that_nothing_is_said_twice() -> None:
    connections = [FakeConnection(after_steps(8)), FakeConnection()]

    async def body(client: EngineClient) -> None:
        await generate(client, 0)
        emitted = connections[1].requests[0].choices[0].emitted
        assert emitted == solo(prompt(0), PARAMS)[: len(emitted)]
        assert len(emitted) >= 6

    run(connections, body)


def test_a_request_that_kills_every_worker_is_run_alone_and_then_given_up() -> None:
    def kills(step: StepResult) -> bool:
        return 0 in step.sequence_ids  # the first request's id

    connections = [FakeConnection(kills) for _ in range(4)]

    async def body(client: EngineClient) -> None:
        async def poisonous() -> str:
            async with client.generate(prompt(9), PARAMS) as generation:
                return (await read(generation))[1][0]

        poison = asyncio.create_task(poisonous())
        await asyncio.sleep(0)
        others = [asyncio.create_task(generate(client, number)) for number in range(3)]
        assert await poison == "error"
        for number, other in enumerate(others):
            assert (await other)[0] == {0: solo(prompt(number), PARAMS)}
        assert client.status.phase == "ready"
        assert client.status.num_restarts == 3
        assert [len(connection.requests) for connection in connections[:2]] == [4, 4]
        assert connections[2].requests[0].prompt_ids == prompt(9), "alone before the others"

    run(connections, body)


def test_requests_accepted_while_the_worker_restarts_are_served_by_the_next() -> None:
    connections = [FakeConnection(after_steps(2)), FakeConnection()]

    async def body(client: EngineClient) -> None:
        first = asyncio.create_task(generate(client, 0))
        while client.status.phase == "ready":
            await asyncio.sleep(0)
        assert client.status.phase == "restarting"
        tokens, _ = await generate(client, 1)
        assert tokens == {0: solo(prompt(1), PARAMS)}
        await first

    run(connections, body)


def test_a_worker_that_keeps_dying_is_given_up_and_nothing_waits_for_ever() -> None:
    connections = [FakeConnection(after_steps(0)) for _ in range(10)]

    async def body(client: EngineClient) -> None:
        numbers = iter(range(100))
        while client.status.phase != "dead":
            _, reasons = await generate(client, next(numbers))
            assert reasons == {0: "error"}
        with pytest.raises(EngineDead, match="in a row"):
            await generate(client, 0)

    run(connections, body)


def test_a_silent_worker_is_killed_and_replaced() -> None:
    connections = [FakeConnection(is_stuck=True), FakeConnection()]

    async def body(client: EngineClient) -> None:
        tokens, _ = await generate(client, 0)
        assert tokens == {0: solo(prompt(0), PARAMS)}
        assert connections[0].is_killed

    run(connections, body, hang_timeout_s=0.05)


def test_leaving_the_block_early_frees_what_the_request_held() -> None:
    connection = FakeConnection()

    async def body(client: EngineClient) -> None:
        async with client.generate(prompt(0), PARAMS, num_choices=3) as generation:
            await anext(generation)
            assert connection.engine.stats().num_blocks_used > 0
        assert connection.engine.stats().num_blocks_used == 0
        assert client.status.num_in_flight == 0

    run([connection], body)


def test_a_finished_choice_is_dropped_and_the_others_go_on() -> None:
    async def body(client: EngineClient) -> None:
        async with client.generate(prompt(0), PARAMS, num_choices=2) as generation:
            tokens: dict[int, list[int]] = {0: [], 1: []}
            async for output in generation:
                tokens[output.index] += output.token_ids
                if len(tokens[0]) == 3:
                    generation.finish(0)
        assert tokens == {0: solo(prompt(0), PARAMS, 0)[:3], 1: solo(prompt(0), PARAMS, 1)}

    run([FakeConnection()], body)


def test_st06_a_slow_reader_gets_several_tokens_at_once_and_loses_none() -> None:
    async def body(client: EngineClient) -> None:
        async with client.generate(prompt(0), PARAMS) as generation:
            outputs = [await anext(generation)]
            await asyncio.sleep(0.05)
            outputs += [output async for output in generation]
        assert max(len(output.token_ids) for output in outputs) > 1
        assert [token for output in outputs for token in output.token_ids] == solo(prompt(0), PARAMS)

    run([FakeConnection()], body)


def test_a_request_starts_when_its_first_step_begins_and_not_when_that_ends() -> None:
    class Slow(FakeConnection):
        async def receive(self, timeout_s: float) -> FromWorker | None:
            message = await super().receive(timeout_s)
            return structs.replace(message, duration_s=100.0) if isinstance(message, StepResult) else message

    async def body(client: EngineClient) -> None:
        now = time.monotonic()
        async with client.generate(prompt(0), PARAMS) as generation:
            (started_at,) = {output.started_at async for output in generation}
        assert started_at == pytest.approx(now - 100, abs=50)

    run([Slow()], body)


def test_what_is_cached_is_what_the_next_request_finds() -> None:
    async def body(client: EngineClient) -> None:
        for salt in ("", "s"):
            assert await client.num_cached(prompt(0, 30), salt) == 0
            found = []
            for _ in range(2):
                expected = await client.num_cached(prompt(0, 30), salt)
                async with client.generate(prompt(0, 30), PARAMS, cache_salt=salt) as generation:
                    found.append((expected, {output.num_cached async for output in generation}))
            assert found == [(0, {0}), (28, {28})], "7 blocks of 4, for one token is always computed"

    run([FakeConnection()], body)


def test_a_worker_that_is_silent_or_asked_too_much_leaves_the_cache_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LOOKUP_TIMEOUT_S", 0.05)

    async def body(client: EngineClient) -> None:
        asked = [client.num_cached(prompt(0), "") for _ in range(client_module.MAX_LOOKUPS + 5)]
        assert set(await asyncio.gather(*asked)) == {None}
        client.drain()
        assert await client.num_cached(prompt(0), "") is None

    connection = FakeConnection(is_stuck=True)
    run([connection], body)
    assert connection.num_lookups == client_module.MAX_LOOKUPS


def test_the_queue_is_bounded() -> None:
    async def body(client: EngineClient) -> None:
        limit = MODEL.max_num_seqs + 4
        async with client.generate(prompt(0), PARAMS, num_choices=limit):
            with pytest.raises(QueueFull):
                await generate(client, 1)
        await generate(client, 1)

    run([FakeConnection()], body)


def test_nothing_is_accepted_before_ready_while_draining_or_when_dead() -> None:
    async def starting() -> None:
        client = EngineClient(in_turn([FakeConnection()]), max_waiting=4, hang_timeout_s=60)
        with pytest.raises(NotReady):
            await generate(client, 0)

    asyncio.run(starting())

    async def draining(client: EngineClient) -> None:
        async with client.generate(prompt(0), PARAMS) as generation:
            client.drain()
            with pytest.raises(Draining):
                await generate(client, 1)
            assert (await read(generation))[0] == {0: solo(prompt(0), PARAMS)}, "what runs goes on"

    run([FakeConnection()], draining)

    async def dead(client: EngineClient) -> None:
        with pytest.raises(EngineDead, match=r"config\.json is missing"):
            await generate(client, 0)

    run([FakeConnection(failure="config.json is missing")], dead, wait_for="dead")


def test_stopping_ends_open_requests_with_an_error_not_with_silence() -> None:
    async def body(client: EngineClient) -> None:
        async with client.generate(prompt(0), PARAMS) as generation:
            await anext(generation)
            await client.stop()
            _, reasons = await read(generation)
            assert reasons == {0: "abort"}

    run([FakeConnection()], body)


def test_a_worker_that_can_not_be_started_again_counts_as_dead_and_never_as_silence() -> None:
    def connect() -> FakeConnection:
        if not connections:
            raise OSError("No space left on device")
        return connections.pop()

    connections = [FakeConnection(after_steps(3))]

    async def main() -> None:
        client = EngineClient(connect, max_waiting=4, hang_timeout_s=60)
        await client.start()
        async with asyncio.timeout(20):
            while client.status.phase != "ready":
                await asyncio.sleep(0.001)
            _, reasons = await generate(client, 0)
            assert reasons == {0: "error"}
            assert client.status.phase == "dead"
            assert "No space left" in client.status.detail
            await client.stop()

    asyncio.run(main())


def test_requests_go_on_after_a_death_while_the_server_drains() -> None:
    connections = [FakeConnection(after_steps(3)), FakeConnection()]

    async def body(client: EngineClient) -> None:
        tasks = [asyncio.create_task(generate(client, number)) for number in range(2)]
        leaving = asyncio.create_task(generate(client, 2))
        await asyncio.sleep(0)
        client.drain()
        while client._connection is not None:
            await asyncio.sleep(0)
        leaving.cancel()  # one that ends while the new worker starts must not send the others into the void
        for number, task in enumerate(tasks):
            assert (await task)[0] == {0: solo(prompt(number), PARAMS)}

    run(connections, body)


def test_a_client_that_leaves_while_the_worker_restarts_leaves_nothing_behind() -> None:
    connections = [FakeConnection(after_steps(2)), FakeConnection(after_steps(2)), FakeConnection()]

    async def body(client: EngineClient) -> None:
        suspect = asyncio.create_task(generate(client, 0))
        while client.status.num_restarts < 1 or client._connection is not None:
            await asyncio.sleep(0)
        held = asyncio.create_task(generate(client, 1))
        gone = [asyncio.create_task(generate(client, 2)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in [suspect, *gone]:
            task.cancel()
        assert (await held)[0] == {0: solo(prompt(1), PARAMS)}, "it does not wait for those that left"
        assert not client._held
        assert not client._solo

    run(connections, body)


def test_a_worker_that_dies_after_a_long_load_is_not_thought_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HEALTHY_AFTER_S", 0.0)

    class DiesLoading(FakeConnection):
        async def receive(self, timeout_s: float) -> FromWorker | None:
            await asyncio.sleep(0.01)
            raise WorkerDied("killed by signal 9")

    connections = [FakeConnection(after_steps(0)), *(DiesLoading() for _ in range(20))]

    async def body(client: EngineClient) -> None:
        _, reasons = await generate(client, 0)
        assert reasons == {0: "error"}
        assert client.status.phase == "dead"

    run(connections, body)


@pytest.mark.parametrize("steps", range(1, 6))
def test_each_choice_has_the_prompts_logprobs_once_whenever_the_worker_dies(steps: int) -> None:
    params = SamplingParams(max_tokens=5, seed=1, prompt_logprobs=0)

    async def body(client: EngineClient) -> None:
        async with client.generate(prompt(0, 60), params, num_choices=3) as generation:
            counts: dict[int, int] = {}
            async for output in generation:
                if output.prompt_logprobs is not None:
                    counts[output.index] = counts.get(output.index, 0) + len(output.prompt_logprobs)
        assert counts == {0: 59, 1: 59, 2: 59}

    run([FakeConnection(after_steps(steps)), FakeConnection()], body)
