"""A lower bound on the tokens of a text from its length alone, so that hopelessly long text isn't tokenized at all."""

import json
import math
from typing import Any

import tokenizers


def max_chars_per_token(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The most characters of a text that one token can stand for; None where there is no limit.

    No limit: a run of unknown characters that becomes one token, an added token that takes the spaces around it
    along, or a step that removes characters.
    """
    added_tokens = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added_tokens) or not _knows_all_text(tokenizer):
        return None
    shrinking = 1 if tokenizer.normalizer is None else _shrinking(_state(tokenizer.normalizer))
    if shrinking is None or (tokenizer.pre_tokenizer and not _keeps_all(_state(tokenizer.pre_tokenizer))):
        return None
    return shrinking * max(map(len, tokenizer.get_vocab()))


def _state(step: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(step.__getstate__())
    return state


def _knows_all_text(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether any text can be spelled without the token for unknown characters."""
    if not isinstance(tokenizer.model, tokenizers.models.BPE):
        return False
    if tokenizer.model.byte_fallback:
        return all(tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
    if tokenizer.pre_tokenizer is None or '"ByteLevel"' not in tokenizer.pre_tokenizer.__getstate__().decode():
        return False
    return all(tokenizer.token_to_id(letter) is not None for letter in tokenizers.pre_tokenizers.ByteLevel.alphabet())


def _shrinking(normalizer: dict[str, Any]) -> int | None:
    """How many characters may become one; None if there is no limit or the step is not known here."""
    match normalizer:
        case {"type": "Sequence", "normalizers": steps}:
            factors = [_shrinking(step) for step in steps]
            return None if None in factors else math.prod(factor for factor in factors if factor)
        case {"type": "Prepend"}:
            return 1
        case {"type": "Replace", "pattern": {"String": pattern}, "content": content} if content:
            return math.ceil(len(pattern) / len(content))
        case {"type": "NFC"}:
            return 4  # the longest canonical decomposition of a character (Unicode Standard Annex 15)
        case _:
            return None


def _keeps_all(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether the step leaves every character to some token."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": steps}:
            return all(map(_keeps_all, steps))
        case {"type": "Split", "behavior": behavior}:
            return bool(behavior != "Removed")
        case {"type": kind}:
            return kind in ("ByteLevel", "Metaspace", "Digits")
        case _:
            return False
