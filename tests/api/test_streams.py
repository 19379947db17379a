"""How streams are framed, how they end, and what a client that leaves puts an end to."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.exchange import Exchange
from server.api.sse import EventStream, EventTemplate, event
from server.errors import RequestError
from server.protocol.chat_answer import ChatCompletionChunk, ChunkChoice, Delta
from tests.api.serving import TEXT, Served, ask, events, listening, numbered, refused, serve

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
BODIES = {COMPLETIONS: {"prompt": "hi", "max_tokens": 200}, CHAT: {"messages": MESSAGES, "max_tokens": 200}}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come; the test's own time limit says when it doesn't."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_chat_stream_has_role_text_end_and_done_in_this_order() -> None:
    answer = ask(serve("ab"), CHAT, {"messages": MESSAGES, "stream": True})
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    choices = [chunk["choices"][0] for chunk in events(answer.text)]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(("phase", "status"), [("starting", 503), ("draining", 503), ("dead", 503), ("ready", 429)])
def test_st04_a_refusal_before_the_first_token_keeps_its_status(path: str, phase: Any, status: int) -> None:
    for stream in (True, False):
        served = serve(max_in_flight=0)
        served.engine.phase = phase
        answer = ask(served, path, BODIES[path] | {"stream": stream})
        assert refused(answer, status)
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_st04_an_error_in_mid_stream_is_an_event_and_an_end(path: str) -> None:
    served = serve("abc")
    served.engine.fails_at = 2
    answer = ask(served, path, BODIES[path] | {"stream": True})
    assert answer.status_code == 200
    *_, error, done = numbered(answer.text)
    assert done == "data: [DONE]"
    assert error.startswith("event: error\ndata: ")
    body = json.loads(error.split("data: ")[1])
    assert body["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert not served.engine.in_flight


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_st04_an_error_before_any_text_is_a_500(path: str) -> None:
    for stream in (True, False):
        served = serve("abc")
        served.engine.fails_at = 0
        answer = ask(served, path, BODIES[path] | {"stream": stream})
        assert answer.headers["x-request-id"] in refused(answer, 500)["message"]


def test_st11_text_with_line_ends_stays_one_event_a_chunk() -> None:
    text = "a\rb\n\nc\r\nd\u2028e\u2029f\x85g data: [DONE]\n"
    served = serve(text)
    answer = ask(served, COMPLETIONS, {"prompt": "a", "max_tokens": 100, "stream": True})
    assert "".join(c["text"] for chunk in events(answer.text) for c in chunk["choices"]) == text
    assert not {"\u2028", "\u2029", "\x85", "\r"}.intersection(answer.text)


@given(text=st.text(), before=st.text(max_size=5))
def test_a_template_writes_the_event_of_the_chunk_that_it_is_made_of(text: str, before: str) -> None:
    def chunk(words: str) -> msgspec.Struct:
        delta = Delta(reasoning_content=words, reasoning=words)  # twice in one chunk
        choice = ChunkChoice(index=1, delta=delta)
        return ChatCompletionChunk(
            id="i", object=before, created=1, model=before, system_fingerprint="f", choices=[choice]
        )

    template = EventTemplate(chunk)
    assert template.fill(before) == event(chunk(before))
    assert template.fill(text) == event(chunk(text))


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_chunks_of_text_are_the_same_whether_or_not_they_are_made_from_a_template(path: str) -> None:
    def chunks(**options: bool) -> list[Any]:
        body = BODIES[path] | {"n": 2, "extra": 1, "include_warnings": True}
        body |= {"stream": True, "stream_options": {"include_usage": True, **options}}
        return [
            {name: value for name, value in chunk.items() if name not in ("id", "created", "usage")}
            for chunk in events(ask(serve("a b\n" * 5), path, body).text)
        ]

    assert chunks() == chunks(continuous_usage_stats=True)


async def play(
    stream: EventStream, on_send: Callable[[bytes], Awaitable[None]] | None = None
) -> tuple[list[dict[str, Any]], Exchange]:
    """Run a response as the server does, with a client that stays."""
    sent: list[dict[str, Any]] = []
    exchange = Exchange("id")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if on_send is not None:
            await on_send(message.get("body", b""))

    await stream({"type": "http", "state": {"exchange": exchange}}, receive, send)
    return sent, exchange


def test_st08_silence_is_filled_with_comments_before_and_between_events() -> None:
    async def run() -> None:
        num_comments = 0
        heard = asyncio.Event()

        async def slow() -> AsyncGenerator[bytes, None]:
            for wanted, data in ((2, b"data: 1\n\n"), (4, b"data: 2\n\n")):
                while num_comments < wanted:
                    heard.clear()
                    await heard.wait()
                yield data

        async def count(body: bytes) -> None:
            nonlocal num_comments
            num_comments += body == b": keep-alive\n\n"
            heard.set()

        sent, _ = await play(EventStream(slow(), keep_alive_s=0.01), count)
        assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]
        bodies = [message["body"] for message in sent[1:]]
        assert bodies.index(b"data: 1\n\n") >= 2
        assert bodies.index(b"data: 2\n\n") >= 5
        assert bodies[-2:] == [b"data: [DONE]\n\n", b""]

    asyncio.run(run())


def test_st08_a_refusal_after_the_first_comment_is_an_error_event() -> None:
    async def run() -> None:
        commented = asyncio.Event()

        async def late() -> AsyncGenerator[bytes, None]:
            await commented.wait()
            raise ValueError("secret")
            yield b""

        async def note(body: bytes) -> None:
            if body.startswith(b":"):
                commented.set()

        sent, _ = await play(EventStream(late(), keep_alive_s=0.01), note)
        bodies = b"".join(message.get("body", b"") for message in sent)
        assert sent[0]["status"] == 200
        assert b"event: error\ndata: {" in bodies
        assert b"secret" not in bodies
        assert bodies.endswith(b"data: [DONE]\n\n")

    asyncio.run(run())


def test_en03_a_client_that_leaves_between_header_and_first_token_ends_the_events() -> None:
    async def run() -> None:
        commented, closed = asyncio.Event(), asyncio.Event()

        async def never() -> AsyncGenerator[bytes, None]:
            try:
                await asyncio.Event().wait()
                yield b""
            finally:
                closed.set()

        async def receive() -> dict[str, Any]:
            await commented.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                commented.set()

        exchange = Exchange("id")
        await EventStream(never(), keep_alive_s=0.01)({"type": "http", "state": {"exchange": exchange}}, receive, send)
        assert closed.is_set()
        assert exchange.log_fields["outcome"] == "disconnected"

    asyncio.run(run())


def test_streaming_really_streams() -> None:
    """The first chunk leaves before the second token is made."""

    async def run() -> None:
        served = serve("abc")
        async with listening(served.app) as url, httpx.AsyncClient(base_url=url) as client:
            served.engine.gate.clear()
            request = client.build_request("POST", COMPLETIONS, json=BODIES[COMPLETIONS] | {"stream": True})
            sending = asyncio.create_task(client.send(request, stream=True))
            await until(lambda: len(served.engine.in_flight) == 1)
            served.engine.script = one_then_hold(served)
            served.engine.gate.set()
            answer = await sending
            lines = answer.aiter_lines()
            assert await anext(lines) == "id: 1"
            assert json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]["text"] == "a"
            assert served.engine.num_tokens == 1
            await answer.aclose()
            await until(lambda: not served.engine.in_flight)

    asyncio.run(run())


def one_then_hold(served: Served) -> Callable[[Any, int, int], int]:
    def script(prompt: Any, choice: int, position: int) -> int:
        served.engine.gate.clear()
        return 64  # "a"

    return script


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("phase", ["queued", "running"])
def test_en03_a_client_that_leaves_ends_its_request_at_once(path: str, stream: bool, n: int, phase: str) -> None:
    async def run() -> None:
        served = serve("abc" * 100)
        served.engine.gate.clear()
        async with listening(served.app) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            body = BODIES[path] | {"stream": stream, "n": n, "ignore_eos": True}
            asking = asyncio.create_task(client.post(path, json=body))
            await until(lambda: len(served.engine.in_flight) == n)
            if phase == "running":
                served.engine.script = one_then_hold(served)
                served.engine.gate.set()
                await until(lambda: served.engine.num_tokens == 1)
            asking.cancel()
            await until(lambda: not served.engine.in_flight)
            assert served.engine.num_tokens == (phase == "running")
            served.engine.gate.set()
            assert (await client.get("/health")).status_code == 200

    asyncio.run(run())


def test_en03_several_prompts_of_a_client_that_leaves_end_too() -> None:
    async def run() -> None:
        served = serve("abc")
        served.engine.gate.clear()
        async with listening(served.app) as url, httpx.AsyncClient(base_url=url) as client:
            asking = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": ["a", "b", "c"], "n": 2}))
            await until(lambda: len(served.engine.in_flight) == 6)
            asking.cancel()
            await until(lambda: not served.engine.in_flight)

    asyncio.run(run())


def test_refusing_the_last_of_several_prompts_leaves_none_running() -> None:
    served = serve(max_in_flight=2)
    refused(ask(served, COMPLETIONS, {"prompt": ["a", "b", "c"]}), 429)
    assert not served.engine.in_flight


def test_a_request_larger_than_the_queue_is_refused_for_good() -> None:
    served = serve(max_waiting=6)  # beside the 64 sequences that run at once
    assert ask(served, COMPLETIONS, {"prompt": ["a", "b"], "n": 32, "max_tokens": 1}).status_code == 200
    error = refused(ask(served, COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 24, "max_tokens": 1}))
    assert error["param"] == "prompt"
    assert "70" in error["message"]


def test_the_official_client_reads_answers_streams_and_errors() -> None:
    async def run() -> None:
        served = serve(api_key=("key",))
        async with (
            listening(served.app) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client,
        ):
            answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True)
            assert answer.choices[0].message.content == TEXT
            text = ""
            stream = await client.chat.completions.create(
                model="tiny",
                messages=MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            assert text == TEXT
            assert chunk.usage is not None
            assert [model.id async for model in client.models.list()] == ["tiny", "alias/tiny"]
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(model="other", prompt="a")
            served.engine.fails_at = 2
            with pytest.raises(openai.APIError, match="the server had an error"):
                async for _ in await client.completions.create(model="tiny", prompt="a", stream=True):
                    pass

    asyncio.run(run())


def test_every_error_class_has_a_kind() -> None:
    def below(cls: type[RequestError]) -> list[type[RequestError]]:
        return [cls, *(c for sub in cls.__subclasses__() for c in below(sub))]

    for cls in below(RequestError)[1:]:
        if cls.__subclasses__() == [] or cls.__name__ != "Unavailable":
            assert cls("message").kind.status >= 400
