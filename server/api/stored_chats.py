"""Chats that were asked for with `store`: kept, listed, shown, labelled and deleted, each key its own."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.openapi import gives, reads
from server.errors import InvalidRequest, NotFound
from server.protocol.chat import ChatCompletionRequest
from server.protocol.chat_answer import ChatCompletion
from server.protocol.metadata import MAX_PAIRS
from server.protocol.stored_chats import (
    ChatCompletionDeleted,
    StoredChatCompletion,
    StoredList,
    UpdateChatRequest,
    stored_message,
)
from server.store import ChatStore, Query, StoredChat

MAX_PAGE = 100
DEFAULT_PAGE = 20


def keeper(
    api: ApiContext, request: Request, body: ChatCompletionRequest
) -> Callable[[ChatCompletion], Awaitable[None]] | None:
    """What stores the answer, if the client wants that. Raises InvalidRequest where it wants what can't be."""
    if not body.store:
        if body.metadata:
            raise InvalidRequest("metadata is attached to stored answers: it needs store: true", param="metadata")
        return None
    store, owner = api.store, api.keys.identify(request)
    if store is None:
        raise InvalidRequest("this server stores nothing: it was started without --store-path", param="store")

    async def keep(answer: ChatCompletion) -> None:
        messages = [
            stored_message(message, _message_id(answer.id, number)) for number, message in enumerate(body.messages)
        ]
        encode = msgspec.json.encode
        await store.add(owner, StoredChat(answer.id, answer.model, body.metadata, encode(answer), encode(messages)))

    return keep


def stored_chats_router(api: ApiContext) -> APIRouter:
    """The endpoints, with what they need."""
    router = APIRouter()

    @router.get("/v1/chat/completions", openapi_extra=gives(StoredList))
    async def list_chats(request: Request) -> Response:
        """The stored chats: `limit`, `after` (an id), `order` (asc, desc), `model`, `metadata[KEY]=VALUE`."""
        query = _query(request)
        # One more than fits on the page tells whether there are more.
        found = await _store(api).list(api.keys.identify(request), replace(query, limit=query.limit + 1))
        if found is None:
            raise InvalidRequest("no stored chat has this id", param="after")
        return _page([(chat.id, _shown(chat)) for chat in found], query.limit)

    @router.get("/v1/chat/completions/{chat_id}", openapi_extra=gives(StoredChatCompletion))
    async def retrieve_chat(request: Request, chat_id: str) -> Response:
        """A stored chat's answer."""
        return _json(_shown(await _find(api, request, chat_id)))

    @router.post(
        "/v1/chat/completions/{chat_id}",
        openapi_extra=reads(UpdateChatRequest, {"metadata": {"topic": "cats"}}) | gives(StoredChatCompletion),
    )
    async def update_chat(
        request: Request, chat_id: str, body: Annotated[UpdateChatRequest, Depends(api.body(UpdateChatRequest))]
    ) -> Response:
        """Replace a stored chat's metadata."""
        await _store(api).set_metadata(api.keys.identify(request), chat_id, body.metadata)
        return _json(_shown(await _find(api, request, chat_id)))

    @router.delete("/v1/chat/completions/{chat_id}", openapi_extra=gives(ChatCompletionDeleted))
    async def delete_chat(request: Request, chat_id: str) -> Response:
        """Forget a stored chat."""
        if not await _store(api).delete(api.keys.identify(request), chat_id):
            raise NotFound(_UNKNOWN)
        return _json(ChatCompletionDeleted(id=chat_id))

    @router.get("/v1/chat/completions/{chat_id}/messages", openapi_extra=gives(StoredList))
    async def list_messages(request: Request, chat_id: str) -> Response:
        """The messages that a stored chat was asked with: `limit`, `after` (an id), `order` (asc, desc)."""
        query, chat = _query(request), await _find(api, request, chat_id)
        messages = msgspec.json.decode(chat.messages, type=list[msgspec.Raw])
        found = [(_message_id(chat.id, number), message) for number, message in enumerate(messages)]
        if query.is_newest_first:
            found.reverse()
        ids = [message_id for message_id, _ in found]
        if query.after is not None and query.after not in ids:
            raise InvalidRequest("no message of this chat has this id", param="after")
        return _page(found[0 if query.after is None else ids.index(query.after) + 1 :], query.limit)

    return router


_UNKNOWN = "no stored chat has this id"


def _store(api: ApiContext) -> ChatStore:
    if api.store is None:
        raise NotFound("this server stores nothing: it was started without --store-path")
    return api.store


async def _find(api: ApiContext, request: Request, chat_id: str) -> StoredChat:
    chat = await _store(api).find(api.keys.identify(request), chat_id)
    if chat is None:
        raise NotFound(_UNKNOWN)
    return chat


def _query(request: Request) -> Query:
    """The parameters of a list. Raises InvalidRequest naming the one that doesn't fit."""
    given = request.query_params
    limit, order = given.get("limit", str(DEFAULT_PAGE)), given.get("order", "asc")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= MAX_PAGE):
        raise InvalidRequest(f"limit is from 1 to {MAX_PAGE}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order is asc or desc", param="order")
    metadata = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in given.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if len(metadata) > MAX_PAIRS:
        raise InvalidRequest(f"metadata has at most {MAX_PAIRS} pairs", param="metadata")
    return Query(int(limit), given.get("after"), order == "desc", given.get("model"), metadata)


def _shown(chat: StoredChat) -> msgspec.Raw:
    """The answer as it was written, whatever version wrote it, with the metadata of now."""
    return msgspec.Raw(b'%s,"metadata":%s}' % (chat.completion[:-1], msgspec.json.encode(chat.metadata)))


def _message_id(chat_id: str, number: int) -> str:
    return f"{chat_id}-{number}"


def _page(found: Sequence[tuple[str, msgspec.Raw]], limit: int) -> Response:
    shown = found[:limit]
    return _json(
        StoredList(
            data=[item for _, item in shown],
            first_id=shown[0][0] if shown else None,
            last_id=shown[-1][0] if shown else None,
            has_more=len(found) > limit,
        )
    )


def _json(answer: msgspec.Struct | msgspec.Raw) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
