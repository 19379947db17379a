"""The app around a scripted engine, asked in-process or over a socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.http_protocol import HttpProtocol
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.store import ChatStore
from tests.fakes import Script, ScriptedEngine, byte_tokenizer, chat_template, says

TOKENIZER = byte_tokenizer()
TEXT = "Grüße, 世界!"


@dataclass
class Served:
    """An app and the engine behind it."""

    app: FastAPI
    engine: ScriptedEngine
    model: ServedModel

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            yield client


def serve(
    text: str = TEXT,
    script: Script | None = None,
    *,
    max_in_flight: int = 64,
    max_model_len: int = 256,
    **settings: Any,
) -> Served:
    """An app whose model says this text."""
    engine = ScriptedEngine(script or says(TOKENIZER, text), max_in_flight=max_in_flight, max_model_len=max_model_len)
    model = ServedModel(("tiny", "alias/tiny"), TOKENIZER, chat_template(TOKENIZER), engine, created=1)
    chosen = Settings(**settings)
    store = None if chosen.store_path is None else ChatStore(chosen.store_path)
    return Served(create_app(chosen, ServedModels([model]), version="0.0.0", store=store), engine, model)


def ask(served: Served, path: str, body: dict[str, Any] | bytes | None, **headers: str) -> httpx.Response:
    """One request, in-process; POST where there is a body."""

    async def send() -> httpx.Response:
        async with served.client() as client:
            if body is None:
                return await client.get(path, headers=headers)
            if isinstance(body, bytes):
                return await client.post(path, content=body, headers=headers)
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(send())


def complete(served: Served, **body: Any) -> dict[str, Any]:
    """The answer of a plain completion that works."""
    answer = ask(served, "/v1/completions", body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = strict_json(answer.content)
    return content


def chat(served: Served, **body: Any) -> dict[str, Any]:
    """The answer of a plain chat that works."""
    answer = ask(served, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = strict_json(answer.content)
    return content


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error object of an answer that is a refusal in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = strict_json(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def strict_json(content: bytes | str) -> Any:
    """JSON as the standard has it: without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(content, parse_constant=refuse)


def events(content: str) -> list[dict[str, Any]]:
    """The chunks of a whole stream, whose framing and end are checked on the way."""
    *frames, done = numbered(content)
    assert done == "data: [DONE]"
    assert all(frame.startswith("data: ") and "\n" not in frame and "\r" not in frame for frame in frames), content
    return [strict_json(frame.removeprefix("data: ")) for frame in frames]


def numbered(content: str) -> list[str]:
    """The events of a stream without their ids, which count from 1."""
    *frames, rest = content.split("\n\n")
    assert rest == ""
    ids, events = zip(*(frame.split("\n", 1) for frame in frames), strict=True)
    assert list(ids) == [f"id: {number}" for number in range(1, len(ids) + 1)]
    return list(events)


def stream(served: Served, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed answer that works."""
    if path.endswith("chat/completions"):
        body = {"messages": [{"role": "user", "content": "hi"}], **body}
    answer = ask(served, path, {"stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(answer.text)


def fold(chunks: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Text and end of each choice, as a client adds them up: exactly one end a choice, and nothing after it."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            whole = choices.setdefault(choice["index"], {"text": "", "finish_reason": None})
            assert whole["finish_reason"] is None
            whole["text"] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            whole["finish_reason"] = choice["finish_reason"]
    assert all(choice["finish_reason"] for choice in choices.values())
    return choices


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The app on a real socket; gives its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", http=HttpProtocol)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
