"""Stored chats: `GET`, `POST` and `DELETE /v1/chat/completions/{id}`, their list and their messages."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from server.protocol.chat import Message
from server.protocol.chat_answer import ChatCompletion
from server.protocol.metadata import Metadata
from server.protocol.wire import WireModel


class UpdateChatRequest(WireModel):
    """What may be changed of a stored chat."""

    metadata: Metadata = Field({})
    """Takes the place of all that was there."""


class StoredChatCompletion(ChatCompletion, frozen=True, kw_only=True):
    """The answer as it was, with its metadata."""

    metadata: dict[str, str]


class StoredList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of stored chats, or of the messages of one."""

    object: Literal["list"] = "list"
    data: list[msgspec.Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ChatCompletionDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """Says that it is gone."""

    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: bool = True


class StoredPart(msgspec.Struct, frozen=True):
    """A part of a message's content."""

    text: str
    type: Literal["text"] = "text"


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was asked with."""

    id: str
    role: str
    content: str | None
    refusal: str | None = None
    name: str | None = None
    content_parts: Annotated[
        list[StoredPart] | None, msgspec.Meta(description="Where the content had several parts.")
    ] = None
    tool_call_id: str | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET
    function_call: dict[str, Any] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


_FUNCTION = {"name": True, "arguments": True}
_CALL: dict[str, Any] = {"id": True, "type": True, "function": _FUNCTION, "custom": {"name": True, "input": True}}


def stored_message(message: Message, message_id: str) -> StoredMessage:
    """A message of a request as it is given back."""
    calls = [call.model_dump(include=_CALL, exclude_none=True) for call in message.tool_calls]
    call = message.function_call
    return StoredMessage(
        id=message_id,
        role=message.role,
        content=message.text or None,
        refusal=message.refusal or None,
        name=message.name,
        content_parts=[StoredPart(part.said) for part in message.content] if len(message.content) > 1 else None,
        tool_call_id=message.tool_call_id or UNSET,
        tool_calls=calls or UNSET,
        function_call=UNSET if call is None else call.model_dump(include=_FUNCTION),
        reasoning_content=message.reasoning_content or message.reasoning or UNSET,
    )
