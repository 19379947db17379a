"""Text -> token ids and back, by the files that came with the model."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from server.text.control_tokens import Rendered
from server.text.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer, byte_table
from server.text.token_bound import max_chars_per_token


class TokenizerError(Exception):
    """The model's tokenizer files are missing or can't be used; the message is for the operator."""


class InvalidText(ValueError):
    """Text with half of a surrogate pair, which no encoding of Unicode can hold."""


class Tokenizer:
    """The tokenizer of one model. Safe to use from several threads; encoding lets other threads run meanwhile.

    tokenizer.json alone says how text becomes ids, as the model was trained with it. (transformers 5 replaces parts of
    it for some classes in tokenizer_config.json, for example the digit splitting of SmolLM2; it agrees wherever the
    class is TokenizersBackend or PreTrainedTokenizerFast.)
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, special_tokens: dict[str, str]) -> None:
        """`special_tokens`: the text of each named token, by its name in tokenizer_config.json ("bos_token" ...)."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._bytes = byte_table(tokenizer)
        self._max_chars_per_token = max_chars_per_token(tokenizer)
        self._marks = [(mark, self._encode_part(mark)) for mark in ("\n", "☺")]
        self.special_tokens = special_tokens
        self.bos_token = special_tokens.get("bos_token")
        self.eos_token = special_tokens.get("eos_token")
        self.eos_token_id: int | None = None if self.eos_token is None else tokenizer.token_to_id(self.eos_token)
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = max(tokenizer.get_vocab().values(), default=-1) + 1
        """One more than the largest id; a model's own vocabulary is often padded to more."""

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer of a model directory. Raises TokenizerError.

        Without a tokenizer.json it is built by transformers, which takes some seconds and imports torch.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            return cls(*_convert_with_transformers(directory))
        config = _read_config(directory)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{path} is not a tokenizer: {error}") from error
        special_tokens = {
            name: text
            for name, value in config.items()
            if name.endswith("_token") and (text := _text_of(value)) is not None
        }
        tokenizer.add_tokens(_tokens_in_config(config))
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        tokenizer.add_special_tokens([text for text in special_tokens.values() if text not in known])
        return cls(tokenizer, special_tokens)

    @property
    def control_tokens(self) -> list[str]:
        """The text of every special token: what a client's text must not turn into."""
        added = self._tokenizer.get_added_tokens_decoder()
        return [added[i].content for i in sorted(self.special_ids)]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a raw prompt, in which the text of a special token is that token.

        With `add_special_tokens` what the model expects around a text is added, usually BOS; a text that brings its
        own BOS gets no second one. Raises InvalidText.
        """
        return self.encode_many([text], add_special_tokens)[0]

    def encode_many(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """As `encode`, for several texts at once on several cores."""
        rows = self._encode_batch(texts, add_special_tokens)
        if not add_special_tokens or self.bos_token is None:
            return rows
        bos = self._tokenizer.token_to_id(self.bos_token)
        return [ids[1:] if ids[:2] == [bos, bos] else ids for ids in rows]

    def encode_rendered(self, rendered: Rendered) -> list[int]:
        """The ids of a prompt that a chat template wrote: nothing is added, and a client's literals stay text.

        Raises InvalidText.
        """
        ids: list[int] = []
        position = 0
        for start, end in rendered.literals:
            ids += self._encode_after(bool(ids), rendered.text[position:start], self._encode_part)
            ids += self._encode_after(bool(ids), rendered.text[start:end], self._encode_literal)
            position = end
        return ids + self._encode_after(bool(ids), rendered.text[position:], self._encode_part)

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that others come before: no beginning is marked. Raises InvalidText."""
        return self._encode_after(True, text, self._encode_part)

    def id_of(self, spelling: str) -> int | None:
        """The id of this token of the vocabulary."""
        token_id: int | None = self._tokenizer.token_to_id(spelling)
        return token_id

    def difference(self, other: "Tokenizer") -> str | None:
        """A token that has not the same id in both, in words; None if all have."""
        ours, theirs = self._tokenizer.get_vocab(), other._tokenizer.get_vocab()
        token = min((token for token, _ in ours.items() ^ theirs.items()), default=None)
        if token is None:
            return None
        ids = ["none" if (found := ids.get(token)) is None else str(found) for ids in (theirs, ours)]
        return f"the id of {token[:40]!r} is {ids[0]} there and {ids[1]} here"

    def min_num_tokens(self, text: str) -> int:
        """A number of tokens that `text` has at least, found without tokenizing; 0 if none is known."""
        return 0 if self._max_chars_per_token is None else -(-len(text) // self._max_chars_per_token)

    def detokenizer(
        self, skip_special_tokens: bool = True, is_continuation: bool = True, kept: Iterable[str] = ()
    ) -> Detokenizer:
        """A new detokenizer, for one choice. Special tokens with a spelling in `kept` are not skipped.

        With `is_continuation` the text goes on from a prompt and keeps its leading space. That is so for chat too:
        what the reply begins with is the model's choice, and a client that sends it back gets the same tokens.
        """
        skipped_ids = self.special_ids.difference(self.ids_of(kept).values()) if skip_special_tokens else frozenset()
        if self._bytes is not None:
            table, strips_space = self._bytes
            return ByteDetokenizer(table, skipped_ids, strips_space and not is_continuation)
        before = self._encode_part("a") if is_continuation else ()  # any word that another can follow
        return WindowDetokenizer(self._decode_whole, skipped_ids, before)

    def ids_of(self, spellings: Iterable[str]) -> dict[str, int]:
        """The ids of those spellings that are special tokens."""
        ids = {text: self._tokenizer.token_to_id(text) for text in spellings}
        return {text: i for text, i in ids.items() if i in self.special_ids}

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of a whole sequence of ids. Ids that are no token are left out."""
        detokenizer = self.detokenizer(skip_special_tokens, is_continuation=False)
        return detokenizer.push(token_ids) + detokenizer.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to the text, which may be part of a character."""
        if self._bytes is not None:
            return self._bytes[0][token_id]
        return self._decode_whole([token_id]).encode()

    @property
    def has_byte_tokens(self) -> bool:
        """Whether a text is its tokens' bytes, one after the other, whatever their neighbours are."""
        return self._bytes is not None

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text, with U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def _decode_whole(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text

    def _encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        for text in texts:
            if not _is_encodable(text):
                raise InvalidText("text holds half of a surrogate pair (U+D800 to U+DFFF)")
        rows = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [row.ids for row in rows]

    def _encode_part(self, text: str) -> list[int]:
        return self._encode_batch([text], add_special_tokens=False)[0]

    def _encode_literal(self, text: str) -> list[int]:
        """The ids of a control token's text as plain text, never the control token's own."""
        ids = self._encode_plain(text)
        if self._tokenizer.token_to_id(text) in ids:
            # The vocabulary holds the text as an ordinary token too: spell it letter by letter.
            return [i for letter in text for i in self._encode_after(True, letter, self._encode_plain)]
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        """Encodes without looking for added tokens, by the steps that otherwise run between them.

        (The library's own switch, `encode_special_tokens`, changes the tokenizer for all threads.)
        """
        tokenizer = self._tokenizer
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        pieces = [text]
        if tokenizer.pre_tokenizer is not None:
            pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for piece in pieces for token in tokenizer.model.tokenize(piece)]

    def _encode_after(self, is_continuation: bool, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encodes a part of a text.

        A sentencepiece tokenizer puts a space before the first word of what it is given, so a part that is not the
        first one is encoded after a line break, which is then taken off again; or after Code Llama's own mark where
        the line break and the part share a token.
        """
        if not text:
            return []
        for mark, mark_ids in self._marks if is_continuation else ():
            ids = encode(mark + text)
            if ids[: len(mark_ids)] == mark_ids:
                return ids[len(mark_ids) :]
        return encode(text)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the older special_tokens_map.json where the config doesn't list its added tokens."""
    config = _read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | _read_json(directory / "special_tokens_map.json")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds no JSON object")
    return content


def _text_of(token: Any) -> str | None:
    """The text of a token in a config, where it stands as a string or as an object."""
    match token:
        case str():
            return token
        case {"content": str(text)}:
            return text
        case _:
            return None


def _tokens_in_config(config: dict[str, Any]) -> list[tokenizers.AddedToken]:
    """Tokens that the config adds to tokenizer.json's own; those that are there already change nothing."""
    listed = config.get("added_tokens_decoder", {})
    tokens = [_added_token(listed[i]) for i in sorted(listed, key=int)]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values = extra.values() if isinstance(extra, dict) else extra
    return tokens + [tokenizers.AddedToken(text, special=True) for text in map(_text_of, values) if text]


def _added_token(entry: dict[str, Any]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(**{name: value for name, value in entry.items() if name != "__type"})


def _convert_with_transformers(directory: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Builds the tokenizer from older files (vocab.json and merges.txt, tokenizer.model ...)."""
    from transformers import AutoTokenizer

    try:
        converted = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:
        raise TokenizerError(f"{directory} has no tokenizer.json, and nothing to make it from: {error}") from error
    if not converted.is_fast:
        raise TokenizerError(f"{directory} has no tokenizer.json, and its tokenizer can't be converted to one")
    return converted.backend_tokenizer, converted.special_tokens_map
