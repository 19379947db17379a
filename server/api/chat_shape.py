"""How the answer of a chat is written: the events of each choice as a message, or as the chunks of one."""

import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import UNSET, UnsetType, structs

from server.api.answers import Text
from server.api.choice_text import Piece, Token
from server.protocol.chat import ChatCompletionRequest
from server.protocol.chat_answer import (
    AssistantMessage,
    CalledCustom,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChunkChoice,
    CustomDelta,
    Delta,
    FunctionDelta,
    MadeToolCall,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from server.protocol.common import Usage, UsageField, Warnings
from server.served import ServedModel
from server.text.events import CallArguments, CallEnd, CallInput, CallStart, Content, Event, Reasoning


class ChatShape:
    """The answer of one request."""

    def __init__(self, body: ChatCompletionRequest, model: ServedModel, warnings: list[str]) -> None:
        self._with_logprobs = body.logprobs
        self._num_top = body.top_logprobs or 0
        self._with_token_ids = body.return_token_ids
        self._service_tier = body.used_tier
        self._is_older_form = bool(body.functions)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = body.model or model.name
        self._fingerprint = model.fingerprint
        self._warnings: Warnings = warnings if body.include_warnings and warnings else UNSET
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        self._no_usage: UsageField = None if include_usage else UNSET
        self._call_ids: dict[tuple[int, int], str] = {}
        """By choice and position: the whole answer has those that were streamed."""
        self._num_calls: dict[int, int] = {}
        """By choice, for those that have begun."""

    def chunks(self, piece: Piece) -> Iterator[ChatCompletionChunk]:
        """A choice's role first, then a chunk for each event, and one for the end."""
        if piece.index not in self._num_calls:
            is_first, self._num_calls[piece.index] = not self._num_calls, 0
            first = self._chunk([ChunkChoice(index=piece.index, delta=Delta(role="assistant", content=""))])
            yield structs.replace(first, prompt_token_ids=_prompt_ids(piece)) if is_first else first
        deltas = [self._delta(piece.index, event) for event in piece.events if not isinstance(event, CallEnd)]
        if (piece.tokens or piece.token_ids) and not deltas:
            deltas = [Delta(content="")]
        logprobs, token_ids = self._logprobs(piece.tokens), self._token_ids(piece)
        for delta in deltas:
            yield self._chunk([ChunkChoice(index=piece.index, delta=delta, logprobs=logprobs, token_ids=token_ids)])
            logprobs, token_ids = self._logprobs([]), UNSET
        if piece.finish_reason is not None:
            reason = self._finish_reason(piece.finish_reason)
            yield self._chunk([ChunkChoice(index=piece.index, delta=Delta(), finish_reason=reason)])

    def plain_text(self, piece: Piece) -> Content | Reasoning | None:
        """The piece's text, if it has nothing else."""
        if len(piece.events) != 1 or piece.tokens or piece.token_ids or piece.finish_reason is not None:
            return None
        [event] = piece.events
        has_begun = piece.index in self._num_calls
        return event if has_begun and isinstance(event, (Content, Reasoning)) else None

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        """No choices, but the counts."""
        return self._chunk([], usage)

    def answer(self, texts: Sequence[Text], usage: Usage) -> ChatCompletion:
        """All choices."""
        choices = [
            ChatChoice(
                index=text.index,
                message=self._message(text.index, text.events),
                logprobs=self._logprobs(text.tokens),
                finish_reason=self._finish_reason(text.finish_reason),
                token_ids=self._token_ids(text),
            )
            for text in texts
        ]
        prompt = texts[0].prompt
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
            warnings=self._warnings,
            service_tier=self._service_tier,
            prompt_logprobs=UNSET if prompt is None or prompt.logprobs is None else prompt.logprobs,
            prompt_token_ids=_prompt_ids(texts[0]),
        )

    def _message(self, index: int, events: Sequence[Event]) -> AssistantMessage:
        content = "".join(event.text for event in events if isinstance(event, Content))
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning)) or UNSET
        calls = _calls(events)
        return AssistantMessage(
            content=content if content or not (calls or reasoning) else None,
            tool_calls=[self._made(index, position, call) for position, call in enumerate(calls)]
            if calls and not self._is_older_form
            else UNSET,
            function_call=CalledFunction(calls[0].name, calls[0].text) if calls and self._is_older_form else UNSET,
            reasoning_content=reasoning,
            reasoning=reasoning,
        )

    def _delta(self, index: int, event: Content | Reasoning | CallStart | CallArguments | CallInput) -> Delta:
        match event:
            case Content(text):
                return Delta(content=text)
            case Reasoning(text):
                return Delta(reasoning_content=text, reasoning=text)
        if isinstance(event, CallStart):
            self._num_calls[index] += 1
        part = self._call_delta(index, self._num_calls[index] - 1, event)
        return Delta(function_call=part.function) if self._is_older_form else Delta(tool_calls=[part])

    def _call_delta(self, index: int, position: int, event: CallStart | CallArguments | CallInput) -> ToolCallDelta:
        match event:
            case CallArguments(text):
                return ToolCallDelta(index=position, function=FunctionDelta(arguments=text))
            case CallInput(text):
                return ToolCallDelta(index=position, custom=CustomDelta(input=text))
        call_id = self._call_id(index, position)
        if event.is_custom:
            return ToolCallDelta(
                index=position, id=call_id, type="custom", custom=CustomDelta(name=event.name, input="")
            )
        function = FunctionDelta(name=event.name, arguments="")
        return ToolCallDelta(index=position, id=call_id, type="function", function=function)

    def _made(self, index: int, position: int, call: "_Call") -> MadeToolCall:
        call_id = self._call_id(index, position)
        if call.is_custom:
            return MadeToolCall(id=call_id, type="custom", custom=CalledCustom(call.name, call.text))
        return MadeToolCall(id=call_id, type="function", function=CalledFunction(call.name, call.text))

    def _call_id(self, index: int, position: int) -> str:
        return self._call_ids.setdefault((index, position), f"call_{secrets.token_hex(12)}")

    def _finish_reason(self, reason: str) -> str:
        return "function_call" if reason == "tool_calls" and self._is_older_form else reason

    def _chunk(self, choices: list[ChunkChoice], usage: UsageField | None = None) -> ChatCompletionChunk:
        warnings, self._warnings = self._warnings, UNSET
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=self._no_usage if usage is None else usage,
            warnings=warnings,
            service_tier=self._service_tier,
        )

    def _token_ids(self, text: Piece | Text) -> list[int] | UnsetType:
        return text.token_ids if self._with_token_ids else UNSET

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        return ChatLogprobs([self._token(token) for token in tokens]) if self._with_logprobs else None

    def _token(self, token: Token) -> TokenLogprob:
        top = [TopLogprob(other.text, other.logprob, list(other.bytes)) for other in token.top]
        assert token.logprob is not None
        return TokenLogprob(token.text, token.logprob, list(token.bytes), top[: self._num_top])


def _prompt_ids(text: Piece | Text) -> list[int] | UnsetType:
    return UNSET if text.prompt is None or text.prompt.token_ids is None else text.prompt.token_ids


class _Call(NamedTuple):
    name: str
    is_custom: bool
    text: str
    """Its arguments, or its input."""


def _calls(events: Sequence[Event]) -> list[_Call]:
    calls: list[_Call] = []
    for event in events:
        match event:
            case CallStart(name, is_custom):
                calls.append(_Call(name, is_custom, ""))
            case CallArguments(text) | CallInput(text):
                calls[-1] = calls[-1]._replace(text=calls[-1].text + text)
    return calls
