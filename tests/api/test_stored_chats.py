"""Chats that are stored, as the official client lists, reads, labels and deletes them."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.api.serving import Served, ask, chat, listening, numbered, refused, serve, strict_json
from tests.api.test_openai_schemas import CHAT as CHAT_SCHEMA
from tests.api.test_streams import BODIES, CHAT, MESSAGES

HI = BODIES[CHAT]
LONG = {"k" * 64: "v" * 512}


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return serve("Hallo!", store_path=tmp_path / "chats.sqlite")


def listed(served: Served, query: str = "") -> Any:
    answer = ask(served, CHAT + query, None)
    assert answer.status_code == 200, answer.text
    return strict_json(answer.content)


def stored(served: Served, **fields: Any) -> str:
    chat_id: str = chat(served, max_tokens=100, store=True, **fields)["id"]
    return chat_id


def test_the_official_client_does_all_that_it_can_do_with_stored_chats(served: Served) -> None:
    async def run() -> None:
        async with (
            listening(served.app) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            chats = client.chat.completions
            made = [
                await chats.create(model="tiny", messages=MESSAGES, store=True, metadata={"number": str(number % 2)})
                for number in range(3)
            ]
            assert await chats.retrieve(made[0].id) == made[0].model_copy(update={"metadata": {"number": "0"}})
            assert [one.id async for one in chats.list(limit=1)] == [one.id for one in made]
            assert [one.id async for one in chats.list(limit=2, order="desc")] == [one.id for one in made[::-1]]
            assert [one.id async for one in chats.list(metadata={"number": "0"})] == [made[0].id, made[2].id]
            assert [one.id async for one in chats.list(model="other")] == []
            updated = await chats.update(made[1].id, metadata={"a": "b"})
            assert updated.metadata == {"a": "b"}
            (message,) = [one async for one in chats.messages.list(made[1].id)]
            assert (message.role, message.content) == ("user", "hi")
            deleted = await chats.delete(made[1].id)
            assert (deleted.id, deleted.deleted) == (made[1].id, True)
            for gone in (chats.retrieve(made[1].id), chats.delete(made[1].id), chats.update(made[1].id, metadata={})):
                with pytest.raises(openai.NotFoundError):
                    await gone

    asyncio.run(run())


@pytest.mark.parametrize("n", [1, 2])
def test_a_streamed_answer_is_stored_as_a_whole_one(served: Served, n: int) -> None:
    body = HI | {"store": True, "n": n, "logprobs": True, "stream": True}
    streamed = ask(served, CHAT, body)
    assert streamed.text.endswith("data: [DONE]\n\n")
    plain = chat(served, store=True, n=n, logprobs=True, max_tokens=200)
    whole, other = listed(served)["data"]
    assert whole["id"] in streamed.text
    CHAT_SCHEMA.validate(whole)
    assert other == plain | {"metadata": {}}
    assert whole["choices"] == other["choices"]


def test_what_was_not_asked_for_is_not_stored(served: Served) -> None:
    chat(served, max_tokens=200)
    ask(served, CHAT, HI | {"store": False, "stream": True})
    assert listed(served) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_request_that_fails_leaves_nothing_stored(served: Served) -> None:
    served.engine.fails_at = 2
    for stream in (True, False):
        ask(served, CHAT, HI | {"store": True, "stream": stream})
    assert listed(served)["data"] == []


def test_an_answer_that_can_not_be_stored_is_an_error_and_not_a_promise(served: Served, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as db:
        db.execute("DROP TABLE chats")
    plain = ask(served, CHAT, HI | {"store": True})
    assert plain.headers["x-request-id"] in refused(plain, 500)["message"]
    *_, error, done = numbered(ask(served, CHAT, HI | {"store": True, "stream": True}).text)
    assert error.startswith("event: error\n")
    assert "chats" not in error
    assert done == "data: [DONE]"


def test_messages_come_back_as_they_were_sent(served: Served) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call, custom]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    chat_id = stored(served, messages=messages)
    page = strict_json(ask(served, f"{CHAT}/{chat_id}/messages", None).content)
    nothing = {"refusal": None, "name": None, "content_parts": None}
    assert page["data"] == [
        {"id": f"{chat_id}-0", "role": "system", "content": "be brief", **nothing},
        {"id": f"{chat_id}-1", "role": "user", "content": "a\nb", **nothing, "name": "Ann", "content_parts": parts},
        {"id": f"{chat_id}-2", "role": "assistant", "content": None, **nothing, "tool_calls": [call, custom]},
        {"id": f"{chat_id}-3", "role": "tool", "content": "42", **nothing, "tool_call_id": "c1"},
    ]
    path = f"{CHAT}/{chat_id}/messages?order=desc&limit=2"
    first = strict_json(ask(served, path, None).content)
    rest = strict_json(ask(served, f"{path}&after={first['last_id']}", None).content)
    assert [first["has_more"], rest["has_more"]] == [True, False]
    assert first["data"] + rest["data"] == page["data"][::-1]
    assert refused(ask(served, f"{path}&after=x", None))["param"] == "after"


def test_each_key_has_its_own_chats(tmp_path: Path) -> None:
    served = serve("a", store_path=tmp_path / "chats.sqlite", api_key=("k1", "k2"))
    mine, yours = {"authorization": "Bearer k1"}, {"authorization": "Bearer k2"}
    chat_id = ask(served, CHAT, HI | {"store": True}, **mine).json()["id"]
    assert [one["id"] for one in ask(served, CHAT, None, **mine).json()["data"]] == [chat_id]
    assert ask(served, CHAT, None, **yours).json()["data"] == []
    for path in (f"{CHAT}/{chat_id}", f"{CHAT}/{chat_id}/messages"):
        assert ask(served, path, None, **mine).status_code == 200
        refused(ask(served, path, None, **yours), 404)
    refused(ask(served, f"{CHAT}/{chat_id}", {"metadata": {}}, **yours), 404)


def test_without_a_file_storing_is_refused_by_the_name_of_its_setting() -> None:
    for stream in (True, False):
        error = refused(ask(serve(), CHAT, HI | {"store": True, "stream": stream}))
        assert error["param"] == "store"
        assert "--store-path" in error["message"]
    for path in (CHAT, f"{CHAT}/x", f"{CHAT}/x/messages"):
        assert "--store-path" in refused(ask(serve(), path, None), 404)["message"]


@pytest.mark.parametrize(
    "metadata",
    [
        {str(number): "" for number in range(17)},
        {"k" * 65: ""},
        {"k": "v" * 513},
        {"k": 1},
        {"k\0": "v"},
        {"k": None},
        [],
        "x",
    ],
)
def test_metadata_beyond_its_limits_is_a_400(served: Served, metadata: Any) -> None:
    chat_id = stored(served)
    for path, body in ((CHAT, HI | {"store": True}), (f"{CHAT}/{chat_id}", {})):
        assert str(refused(ask(served, path, body | {"metadata": metadata}))["param"]).startswith("metadata")


def test_metadata_within_its_limits_is_kept_and_found(served: Served) -> None:
    chat_id = stored(served, metadata=LONG)
    (found,) = listed(served, f"?metadata[{'k' * 64}]={'v' * 512}")["data"]
    assert (found["id"], found["metadata"]) == (chat_id, LONG)
    full = {str(number): "x" for number in range(16)}
    assert ask(served, f"{CHAT}/{chat_id}", {"metadata": full}).json()["metadata"] == full


def test_metadata_without_storing_is_refused(served: Served) -> None:
    assert refused(ask(served, CHAT, HI | {"metadata": {"a": "b"}}))["param"] == "metadata"
    assert ask(served, CHAT, HI | {"metadata": {}}).status_code == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=1e1", "limit"),
        ("order=up", "order"),
        ("after=unknown", "after"),
        ("&".join(f"metadata[{number}]=1" for number in range(17)), "metadata"),
    ],
)
def test_a_list_that_can_not_be_made_is_a_400(served: Served, query: str, param: str) -> None:
    assert refused(ask(served, f"{CHAT}?{query}", None))["param"] == param


@pytest.mark.parametrize("chat_id", ["..%2Fx", "%2Fx", "a%00b", "x" * 5000, "CON", "%FF", "'--"])
def test_nw10_an_odd_id_is_an_unknown_one(served: Served, chat_id: str) -> None:
    refused(ask(served, f"{CHAT}/{chat_id}", None), 404)
