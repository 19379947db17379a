"""What a load asks for: prompts drawn from a seed, or read from a file."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec

from server.bench.answer import Request

Message = dict[str, Any]

# Ids that are words or parts of words in nearly every vocabulary: beyond the bytes, and within the smallest.
FIRST_ID, LAST_ID = 256, 3000
# One token each in most vocabularies, with the space before them. What the server counted is what is reported.
_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city name team minute idea body back parent face level door"
)
WORDS = _TEXT.split()


class Turn(msgspec.Struct, frozen=True):
    """One request of a session: a prompt, or messages to add to a chat."""

    max_tokens: int
    prompt: str | list[int] = ""
    messages: list[Message] = []


class Session(msgspec.Struct, frozen=True):
    """Requests, one after the other; in a chat each goes on from the answers before."""

    turns: list[Turn]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The form of drawn requests."""

    input_len: int
    """Tokens of each prompt, or of each message of a chat, about; exact where prompts are token ids."""
    output_len: int
    prefix_len: int = 0
    """How many of `input_len` are the same in every prompt."""
    num_turns: int = 1
    is_chat: bool = False
    uses_words: bool = False
    """Prompts are text, for servers that take no token ids."""

    @property
    def own_len(self) -> float:
        """Tokens of a request, on average, that are in no other one's prompt, nor in the chat before it."""
        return self.input_len - self.prefix_len / self.num_turns


class Common(msgspec.Struct, frozen=True):
    """What all requests of a load have in common."""

    model: str
    ignores_eos: bool
    temperature: float = 0.0

    def request(self, turn: Turn, history: list[Message]) -> Request:
        """A turn as it is sent. `history`: the chat before it."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": turn.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignores_eos:
            body["ignore_eos"] = True
        if turn.messages:
            return Request("/v1/chat/completions", body | {"messages": [*history, *turn.messages]})
        return Request("/v1/completions", body | {"prompt": turn.prompt})


def drawn(shape: Shape, num_sessions: int, seed: str) -> list[Session]:
    """Sessions of random prompts, the same for the same seed, no two of them alike beyond their prefix."""
    # The prefix is the same for every seed, so that what warms up warms it.
    prefix = _draw(random.Random("prefix"), shape.prefix_len, shape)
    rng = random.Random(seed)
    own_len = shape.input_len - shape.prefix_len
    sessions = []
    for _ in range(num_sessions):
        own = [_draw(rng, own_len if number == 0 else shape.input_len, shape) for number in range(shape.num_turns)]
        prompts = [_joined([*prefix, *own[0]], shape), *(_joined(part, shape) for part in own[1:])]
        sessions.append(Session([_turn(prompt, shape) for prompt in prompts]))
    return sessions


def read(path: Path, num_sessions: int, output_len: int) -> list[Session]:
    """Sessions from a file of JSON lines, from its beginning again where it has fewer.

    A line has `prompt` (text or token ids) or `messages`, and may have `max_tokens`. Raises OSError and, naming the
    line, ValueError.
    """
    lines = [line for line in enumerate(path.read_text().splitlines(), start=1) if line[1].strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    sessions = [_read_line(f"{path} line {number}", line, output_len) for number, line in lines]
    return [sessions[i % len(sessions)] for i in range(num_sessions)]


def _read_line(where: str, line: str, output_len: int) -> Session:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or ("prompt" in fields) == ("messages" in fields):
            raise ValueError("it must be an object with either prompt or messages")
        turn = msgspec.convert({"max_tokens": output_len} | fields, Turn)
    except ValueError as error:  # msgspec's is one, too
        raise ValueError(f"{where}: {error}") from None
    return Session([turn])


def _draw(rng: random.Random, count: int, shape: Shape) -> list[Any]:
    if shape.uses_words or shape.is_chat:
        return [rng.choice(WORDS) for _ in range(count)]
    return [rng.randrange(FIRST_ID, LAST_ID) for _ in range(count)]


def _joined(parts: list[Any], shape: Shape) -> str | list[int]:
    return " ".join(parts) if shape.uses_words or shape.is_chat else parts


def _turn(prompt: str | list[int], shape: Shape) -> Turn:
    if shape.is_chat:
        return Turn(shape.output_len, messages=[{"role": "user", "content": prompt}])
    return Turn(shape.output_len, prompt)
