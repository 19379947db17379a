"""Streams that are picked up again: nothing twice, nothing missing, nobody else's, and never without bounds."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api import resumable
from server.api.resumable import KeptStream, ResumableStreams
from server.errors import InvalidRequest, NotFound
from tests.api.serving import Served, ask, listening, refused, serve
from tests.api.test_streams import BODIES, CHAT, COMPLETIONS, until

RESUMABLE = {"x-resumable": "1", "x-request-id": "mine"}
TEXT = "abcdefgh"


def sent_events(content: str) -> list[tuple[int, str]]:
    """Id and data of each event, comments left out."""
    frames = [frame for frame in content.split("\n\n") if frame and not frame.startswith(":")]
    return [(int(id_.removeprefix("id: ")), data) for id_, data in (frame.split("\n", 1) for frame in frames)]


def text_of(events: list[tuple[int, str]]) -> str:
    chunks = [json.loads(data.removeprefix("data: ")) for _, data in events if "[DONE]" not in data]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


@asynccontextmanager
async def client_of(served: Served, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(served.app) as url,
        httpx.AsyncClient(base_url=url, timeout=30, headers=headers) as client,
    ):
        yield client


async def leave_after(client: httpx.AsyncClient, num_events: int, path: str = COMPLETIONS, **body: Any) -> None:
    """Ask for a resumable stream, and cut the connection after some events."""
    request = client.build_request("POST", path, json=BODIES[path] | {"stream": True} | body, headers=RESUMABLE)
    answer = await client.send(request, stream=True)
    assert answer.status_code == 200, await answer.aread()
    lines = answer.aiter_lines()
    seen = 0
    while seen < num_events:
        seen += (await anext(lines)).startswith("data: ")
    await answer.aclose()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("headers", [RESUMABLE, {}])
def test_events_are_numbered_from_one(path: str, headers: dict[str, str]) -> None:
    answer = ask(serve(TEXT), path, BODIES[path] | {"stream": True}, **headers)
    events = sent_events(answer.text)
    assert [id_ for id_, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1] == "data: [DONE]"


def test_a_server_that_keeps_no_streams_numbers_no_events() -> None:
    answer = ask(serve(TEXT, stream_resume_s=0), COMPLETIONS, BODIES[COMPLETIONS] | {"stream": True})
    assert all(frame.startswith("data: ") for frame in answer.text.split("\n\n") if frame)


@pytest.mark.parametrize("num_seen", [1, 3, 5])
def test_a_client_that_comes_back_goes_on_from_the_next_event(num_seen: int) -> None:
    async def run() -> None:
        served = serve(TEXT)
        async with client_of(served) as client:
            await leave_after(client, num_seen)
            for last_id in (num_seen, 0, num_seen + 1):
                answer = await client.get("/v1/streams/mine", headers={"last-event-id": str(last_id)})
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                events = sent_events(answer.text)
                assert [id_ for id_, _ in events] == list(range(last_id + 1, len(TEXT) + 3))
                assert text_of(events) == TEXT[last_id:]
            over = await client.get("/v1/streams/mine", headers={"last-event-id": str(len(TEXT) + 2)})
            assert (over.status_code, over.content) == (204, b"")

    asyncio.run(run())


def test_the_model_goes_on_while_the_client_is_away() -> None:
    async def run() -> None:
        served = serve(TEXT)
        async with client_of(served) as client:
            served.engine.gate.clear()
            leaving = asyncio.create_task(leave_after(client, 1))
            await until(lambda: len(served.engine.in_flight) == 1)
            leaving.cancel()
            served.engine.gate.set()
            await until(lambda: served.engine.num_tokens == len(TEXT) + 1)
            assert text_of(sent_events((await client.get("/v1/streams/mine")).text)) == TEXT

    asyncio.run(run())


@pytest.mark.parametrize("resume_s", [0, 0.05])
def test_en03_a_stream_whose_client_stays_away_is_aborted(resume_s: float) -> None:
    async def run() -> None:
        served = serve(TEXT, stream_resume_s=resume_s)
        async with client_of(served) as client:
            served.engine.gate.clear()
            leaving = asyncio.create_task(leave_after(client, 1))
            await until(lambda: len(served.engine.in_flight) == 1)
            leaving.cancel()
            await until(lambda: not served.engine.in_flight)
            served.engine.gate.set()
            assert served.engine.num_tokens == 0
            assert refused(await client.get("/v1/streams/mine"), 404)["code"] == "not_found"

    asyncio.run(run())


def test_a_finished_stream_is_forgotten_after_its_time() -> None:
    async def run() -> None:
        async with client_of(serve(TEXT, stream_resume_s=0.05)) as client:
            await leave_after(client, 1)
            await asyncio.sleep(0.1)
            refused(await client.get("/v1/streams/mine"), 404)

    asyncio.run(run())


def test_streams_belong_to_their_key() -> None:
    async def run() -> None:
        served = serve(TEXT, api_key=("k1", "k2"))
        async with client_of(served, authorization="Bearer k1") as client:
            await leave_after(client, 1)
            unknown = refused(await client.get("/v1/streams/other"), 404)
            other = await client.get("/v1/streams/mine", headers={"authorization": "Bearer k2"})
            assert refused(other, 404) == unknown
            refused(await client.get("/v1/streams/mine", headers={"authorization": ""}), 401)
            assert text_of(sent_events((await client.get("/v1/streams/mine")).text)) == TEXT

    asyncio.run(run())


@pytest.mark.parametrize("last_id", ["-1", "1.0", "x", "٣", "9" * 30, "50"])
def test_an_event_id_that_was_never_given_is_a_400(last_id: str) -> None:
    async def run() -> None:
        served = serve(TEXT)
        async with client_of(served) as client:
            served.engine.gate.clear()
            leaving = asyncio.create_task(leave_after(client, 1))
            await until(lambda: len(served.engine.in_flight) == 1)
            answer = await client.get("/v1/streams/mine", headers=[(b"last-event-id", last_id.encode())])
            assert refused(answer)["param"] == "last-event-id"
            leaving.cancel()

    asyncio.run(run())


def test_an_id_is_taken_while_its_stream_runs_and_free_afterwards() -> None:
    async def run() -> None:
        served = serve(TEXT)
        body = BODIES[COMPLETIONS] | {"stream": True}
        async with client_of(served) as client:
            served.engine.gate.clear()
            leaving = asyncio.create_task(leave_after(client, 1))
            await until(lambda: len(served.engine.in_flight) == 1)
            assert refused(await client.post(COMPLETIONS, json=body, headers=RESUMABLE))["param"] == "x-request-id"
            served.engine.gate.set()
            await leaving
            await until(lambda: not served.engine.in_flight)
            assert (await client.post(COMPLETIONS, json=body, headers=RESUMABLE)).status_code == 200

    asyncio.run(run())


def test_an_error_in_mid_stream_reaches_the_client_that_comes_back() -> None:
    async def run() -> None:
        served = serve(TEXT)
        served.engine.fails_at = 3
        async with client_of(served) as client:
            await leave_after(client, 1)
            *texts, error, done = sent_events((await client.get("/v1/streams/mine")).text)
            assert text_of(texts) == "abc"
            assert error[1].startswith("event: error\ndata: ")
            assert (error[0], done) == (4, (5, "data: [DONE]"))

    asyncio.run(run())


def test_a_refusal_keeps_its_status() -> None:
    refused(ask(serve(max_in_flight=0), COMPLETIONS, BODIES[COMPLETIONS] | {"stream": True}, **RESUMABLE), 429)


@pytest.mark.parametrize(("stream", "resume_s"), [(True, 0), (False, 60)])
def test_the_header_is_named_where_it_has_no_effect(stream: bool, resume_s: float) -> None:
    served = serve(TEXT, stream_resume_s=resume_s)
    answer = ask(served, COMPLETIONS, BODIES[COMPLETIONS] | {"stream": stream}, **RESUMABLE)
    assert answer.headers["x-nexttoken-warnings"].startswith("x-resumable has no effect: ")
    assert "id: " not in answer.text


def test_the_official_client_reads_a_resumable_stream() -> None:
    async def run() -> None:
        async with (
            listening(serve(TEXT).app) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            stream = await client.completions.create(model="tiny", prompt="a", stream=True, extra_headers=RESUMABLE)
            assert "".join([choice.text async for chunk in stream for choice in chunk.choices]) == TEXT

    asyncio.run(run())


class Source:
    """Events that come when they are let out."""

    def __init__(self, count: int, size: int = 1) -> None:
        self.events = [b"%d" % number + b"." * size for number in range(1, count + 1)]
        self.num_made = 0
        self.is_closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for event in self.events:
                await asyncio.sleep(0)
                self.num_made += 1
                yield event
        finally:
            self.is_closed = True


async def read(kept: KeptStream, last_id: int = 0, count: int | None = None) -> list[bytes]:
    found: list[bytes] = []
    events = kept.read(last_id)
    async for event in events:
        found.append(event)
        if len(found) == count:
            await events.aclose()
            break
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=6), st.integers(0, 3))
def test_any_number_of_connections_together_see_each_event_once(counts: list[int], pauses: int) -> None:
    async def run() -> None:
        source = Source(20)
        kept = ResumableStreams(60).keep("", "id", source())
        seen: list[bytes] = []
        for count in counts:
            seen += await read(kept, len(seen), count if len(seen) + count <= 20 else None)
            for _ in range(pauses):
                await asyncio.sleep(0)
        if not kept.is_over_after(len(seen) + 1) or len(seen) < 20:
            seen += await read(kept, len(seen))
        assert seen == source.events

    asyncio.run(run())


def test_a_new_connection_ends_the_former() -> None:
    async def run() -> None:
        source = Source(6)
        kept = ResumableStreams(60).keep("", "id", source())
        former = kept.read()
        first = await anext(former)
        assert [first, *await read(kept, 1)] == source.events
        with pytest.raises(InvalidRequest, match="another connection"):
            await anext(former)
        assert await read(kept) == source.events, "its end is not the end of the stream"

    asyncio.run(run())


def test_a_stream_keeps_its_last_events_and_waits_for_its_client_when_they_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumable, "MAX_STREAM_BYTES", 100)

    async def run() -> None:
        source = Source(100, size=8)
        kept = ResumableStreams(60).keep("", "id", source())
        for _ in range(1000):
            await asyncio.sleep(0)
        assert source.num_made <= 12, "nobody reads, so the model's text is not taken"
        assert await read(kept, count=50) == source.events[:50]
        with pytest.raises(NotFound, match="no longer kept"):
            await read(kept)
        assert await read(kept, 50) == source.events[50:]

    asyncio.run(run())


def test_the_oldest_stream_without_a_client_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MAX_STREAMS", 2)

    async def run() -> None:
        streams = ResumableStreams(60)
        attended, left = Source(50), Source(10**6)
        connection = streams.keep("", "attended", attended()).read()
        seen = [await anext(connection)]
        await read(streams.keep("", "left", left()), count=1)
        streams.keep("", "third", Source(1)())
        with pytest.raises(NotFound):
            streams.find("", "left")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert left.is_closed
        streams.keep("", "fourth", Source(1)())
        with pytest.raises(NotFound):
            streams.find("", "attended")
        seen += [event async for event in connection]
        assert seen == attended.events, "a client that is there sees the end of its stream"

    asyncio.run(run())


@pytest.mark.parametrize("given", ["0", "1"])
@pytest.mark.parametrize("stream", [False, True])
def test_one_process_holds_no_body_beside_what_it_read_in_it(given: str, stream: bool) -> None:
    served = serve(TEXT)
    app, held = served.app, []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            held.append(scope["state"]["exchange"].body)
            await send(message)

        await app(scope, receive, sending)

    served.app = watched
    answer = ask(served, COMPLETIONS, {**BODIES[COMPLETIONS], "stream": stream}, **{**RESUMABLE, "x-resumable": given})
    assert answer.status_code == 200
    assert set(held) == {b""}
