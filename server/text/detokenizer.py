"""Token ids -> text, a few tokens at a time: the pieces joined are the text of the whole."""

import codecs
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import tokenizers


class Detokenizer(Protocol):
    """Turns the tokens of one choice into text as they come."""

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete. Never half a character: its other bytes are waited for."""

    def flush(self) -> str:
        """What is left at the end: one U+FFFD for an unfinished character, or nothing."""


class TokenBytes(dict[int, bytes]):
    """The bytes that each token stands for, found once and kept. Ids that are no token stand for nothing."""

    def __init__(self, spell: Callable[[int], str | None], to_bytes: Callable[[str], bytes]) -> None:
        super().__init__()
        self._spell = spell
        self._to_bytes = to_bytes

    def __missing__(self, token_id: int) -> bytes:
        spelling = self._spell(token_id)
        if spelling is None:
            return b""  # not kept: there is no end of ids that are no token
        found = self[token_id] = self._to_bytes(spelling)
        return found


class ByteDetokenizer:
    """For tokenizers in which each token stands for the same bytes wherever it is: UTF-8 decoded as it comes in."""

    def __init__(self, table: TokenBytes, skipped_ids: Collection[int], strips_space: bool) -> None:
        """`strips_space`: a space at the very beginning is the tokenizer's own and no part of the text."""
        self._table = table
        self._skipped_ids = skipped_ids
        self._strips_space = strips_space
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def push(self, token_ids: Iterable[int]) -> str:
        table, skipped_ids = self._table, self._skipped_ids
        text = self._decode(b"".join([table[i] for i in token_ids if i not in skipped_ids]))
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return self._decode(b"", final=True)


class WindowDetokenizer:
    """For any other tokenizer, where a token's text depends on its neighbours.

    Decodes the last piece that was sent with and without the new tokens, and sends the difference
    (the method of text-generation-inference).
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], skipped_ids: Collection[int], context_ids: Sequence[int]
    ) -> None:
        """`context_ids`: tokens that the text goes on from, itself not part of it."""
        self._decode = decode
        self._skipped_ids = skipped_ids
        self._sent_ids = list(context_ids)
        self._new_ids: list[int] = []

    def push(self, token_ids: Iterable[int]) -> str:
        return "".join([self._push_one(i) for i in token_ids if i not in self._skipped_ids])

    def flush(self) -> str:
        text = self._new_text()
        self._new_ids = []
        return text

    def _push_one(self, token_id: int) -> str:
        self._new_ids.append(token_id)
        text = self._new_text()
        if not text or (text.endswith("\ufffd") and len(self._new_ids) < _MAX_CHARACTER_TOKENS):
            return ""
        self._sent_ids, self._new_ids = self._new_ids, []
        return text

    def _new_text(self) -> str:
        return self._decode(self._sent_ids + self._new_ids)[len(self._decode(self._sent_ids)) :]


def byte_table(tokenizer: tokenizers.Tokenizer) -> tuple[TokenBytes, bool] | None:
    """The bytes of each token, and whether decoding drops a space at the beginning.

    None for a tokenizer whose decoder is of another kind than these two: byte-level, and sentencepiece with
    byte fallback.
    """
    if tokenizer.decoder is None:
        return None
    decoder = json.loads(tokenizer.decoder.__getstate__())
    if decoder["type"] == "ByteLevel":
        return TokenBytes(tokenizer.id_to_token, _bytes_of_byte_level), False
    steps = decoder.get("decoders", [])
    if steps[:3] != _SENTENCEPIECE or steps[3:] not in ([], [_STRIP]):
        return None
    return TokenBytes(tokenizer.id_to_token, _bytes_of_sentencepiece), bool(steps[3:])


def _bytes_of_byte_level(spelling: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHARACTER[character] for character in spelling])
    except KeyError:
        return spelling.encode()  # an added token, which is spelled in plain text


def _bytes_of_sentencepiece(spelling: str) -> bytes:
    if len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
        try:
            return bytes([int(spelling[3:5], 16)])
        except ValueError:
            pass
    return spelling.replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (GPT-2's `bytes_to_unicode`).

    A byte that is a visible Latin-1 character is written as that; the others, in order, as U+0100 and on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF_CHARACTER = _byte_alphabet()

_SENTENCEPIECE = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}

_MAX_CHARACTER_TOKENS = 4
"""A UTF-8 character has at most four bytes: what is not whole by then never will be."""
