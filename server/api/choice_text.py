"""The text of one choice as its tokens come: decoded, cut at stop strings, with log-probabilities aligned to it."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from model.batch import TokenLogprobs
from server.engine.messages import Output
from server.protocol.common import GenerationRequest, PromptLogprob, PromptLogprobs
from server.text.channels import Channels
from server.text.events import Event, merged
from server.text.stop import StopMatcher
from server.text.tokenizer import Tokenizer

# JSON has no infinity, and a token that can't be drawn has a log-probability of minus that.
MIN_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been at a place, and how likely it was."""

    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the text with what was asked for about it."""

    text: str
    bytes: bytes
    logprob: float | None
    """None for the first token of a prompt, which nothing comes before."""
    top: list[Alternative]
    """Most likely first, and the token itself wherever it stands."""
    offset: int
    """Where the token's text begins, in characters of the choice's text, an echoed prompt included."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """What the client wants to know of its prompt."""

    token_ids: list[int] | None
    logprobs: PromptLogprobs | None


@dataclass(slots=True)
class Piece:
    """What a choice gained since its last piece."""

    index: int
    text: str
    events: list[Event] = field(default_factory=list)
    """What the text turned out to be, for endpoints with channels. It lags behind: marks are waited for."""
    tokens: list[Token] = field(default_factory=list)
    """Each generated token once, if log-probabilities were asked for; with the text that they complete, so that the
    tokens of a stop string, and the end-of-sequence token, come with the choice's last piece."""
    token_ids: list[int] = field(default_factory=list)
    """Of the generated tokens, as they come, if they were asked for: text lags behind them."""
    prompt: PromptTokens | None = None
    """With the choice's first piece, if asked for."""
    finish_reason: str | None = None


class ChoiceText:
    """Turns one choice's Outputs into Pieces."""

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        stop: StopMatcher,
        prompt_ids: list[int],
        echoed: str | None,
        channels: Channels | None,
        kept: Iterable[str],
    ) -> None:
        """`stop` and `channels`: fresh ones. `echoed`: the prompt's text if the choice begins with it.

        `kept`: special tokens that belong to the text.
        """
        self.num_tokens = 0
        """Generated so far and shown: those after a stop string don't count."""
        self.num_reasoning = 0
        """Those of them that are thoughts."""
        self.is_over = False
        """Whether its last piece was taken."""
        self._tokenizer = tokenizer
        self._prompt_ids = prompt_ids
        self._echoed = echoed
        self._request = request
        self._num_logprobs = request.num_logprobs
        self.has_begun = False
        """Whether its first piece was taken."""
        self._detokenizer = tokenizer.detokenizer(request.skip_special_tokens, kept=kept)
        self._stop = stop
        self._channels = channels
        self._held: deque[tuple[int, Token]] = deque()
        """Tokens whose text was not sent yet, each with the length of text that completes it."""
        self._num_decoded = 0
        self._num_sent = 0

    def take(self, output: Output, index: int) -> Piece:
        """What this output adds. It may find the end at a stop string, where the engine saw none."""
        piece = Piece(index, "" if self.has_begun else self._begin(output))
        if not self.has_begun:
            piece.prompt, self.has_begun = self._prompt_tokens(output.prompt_logprobs), True
        for position, token_id in enumerate(output.token_ids):
            is_stop_token = output.stop_token_id is not None and position == len(output.token_ids) - 1
            shown = () if is_stop_token and not self._request.include_stop_str_in_output else (token_id,)
            logprobs = output.logprobs[position] if output.logprobs is not None else None
            text, found = self._push(token_id, shown, logprobs)
            if self._request.return_token_ids:
                piece.token_ids.append(token_id)
            is_over = self._split(piece, text)
            self.num_reasoning += self._channels is not None and self._channels.is_reasoning
            if is_over or found:
                piece.finish_reason = "stop"
                break
        else:
            piece.finish_reason = output.finish_reason
            if output.finish_reason is not None:
                self._split(piece, self._stop.push(self._detokenizer.flush(), False)[0] + self._stop.flush())
        if self._channels is not None and piece.finish_reason is not None:
            piece.events += self._channels.finish()
            piece.finish_reason = self._channels.finish_reason(piece.finish_reason)
        self.is_over = piece.finish_reason is not None
        if len(piece.events) > 1:
            piece.events = merged(piece.events)
        self._release(piece)
        return piece

    def _begin(self, output: Output) -> str:
        if self._echoed is None:
            return ""
        if output.prompt_logprobs is not None and self._num_logprobs is not None:
            self._held.extend(self._echoed_tokens(output.prompt_logprobs, self._num_logprobs))
        self._num_decoded = len(self._echoed)
        return self._echoed

    def _prompt_tokens(self, logprobs: Sequence[TokenLogprobs] | None) -> PromptTokens | None:
        request = self._request
        if not request.return_token_ids and request.prompt_logprobs is None:
            return None
        listed: PromptLogprobs | None = None
        if request.prompt_logprobs is not None and logprobs is not None:
            entries = zip(self._prompt_ids[1:], logprobs, strict=True)
            listed = [None, *(self._entry(i, entry, request.prompt_logprobs) for i, entry in entries)]
        return PromptTokens(self._prompt_ids if request.return_token_ids else None, listed)

    def _entry(self, token_id: int, logprobs: TokenLogprobs, count: int) -> dict[int, PromptLogprob]:
        top = list(zip(logprobs.top_ids, logprobs.top, strict=True))[:count]
        ranks = {i: rank for rank, (i, _) in enumerate(top, 1)}
        return {
            i: PromptLogprob(max(value, MIN_LOGPROB), ranks.get(i), self._name(i, self._tokenizer.token_bytes(i)))
            for i, value in dict([(token_id, logprobs.chosen), *top]).items()
        }

    def _push(self, token_id: int, shown: Iterable[int], logprobs: TokenLogprobs | None) -> tuple[str, bool]:
        self.num_tokens += 1
        offset = self._num_decoded
        new = self._detokenizer.push(shown)
        self._num_decoded += len(new)
        if self._num_logprobs is not None:
            # Half a character waits for the token that brings the other half.
            end = self._num_decoded if new else self._num_decoded + 1
            self._held.append((end, self._token(token_id, logprobs, offset)))
        text, found = self._stop.push(new, self.num_tokens >= self._request.min_tokens)
        return text, found is not None

    def _split(self, piece: Piece, text: str) -> bool:
        """Adds text to the piece. True if no more is wanted."""
        piece.text += text
        if self._channels is None:
            return False
        piece.events += self._channels.push(text)
        return self._channels.is_over

    def _release(self, piece: Piece) -> None:
        self._num_sent += len(piece.text)
        is_end = piece.finish_reason is not None
        while self._held and (is_end or self._held[0][0] <= self._num_sent):
            piece.tokens.append(self._held.popleft()[1])

    def _echoed_tokens(self, logprobs: Sequence[TokenLogprobs], count: int) -> Iterable[tuple[int, Token]]:
        detokenizer, offset = self._tokenizer.detokenizer(is_continuation=False), 0
        # prompt_logprobs may have asked for more.
        entries = [TokenLogprobs(entry.chosen, entry.top_ids[:count], entry.top[:count]) for entry in logprobs]
        for token_id, entry in zip(self._prompt_ids, (None, *entries), strict=True):
            yield 0, self._token(token_id, entry, offset)
            offset += len(detokenizer.push((token_id,)))

    def _token(self, token_id: int, logprobs: TokenLogprobs | None, offset: int) -> Token:
        raw = self._tokenizer.token_bytes(token_id)
        name = self._name(token_id, raw)
        if logprobs is None:
            return Token(name, raw, None, [], offset)
        logprob = max(logprobs.chosen, MIN_LOGPROB)
        top = [
            self._alternative(i, value)
            for i, value in zip(logprobs.top_ids, logprobs.top, strict=True)
            if i != token_id
        ]
        rank = sum(other.logprob > logprob for other in top)
        top.insert(rank, Alternative(name, raw, logprob))
        return Token(name, raw, logprob, top, offset)

    def _alternative(self, token_id: int, logprob: float) -> Alternative:
        raw = self._tokenizer.token_bytes(token_id)
        return Alternative(self._name(token_id, raw), raw, max(logprob, MIN_LOGPROB))

    def _name(self, token_id: int, raw: bytes) -> str:
        return f"token_id:{token_id}" if self._request.return_tokens_as_token_ids else _readable(raw)


def _readable(raw: bytes) -> str:
    """The bytes as text; a part of a character in OpenAI's notation, which keeps different parts apart."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
