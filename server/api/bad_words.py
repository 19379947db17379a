"""Texts that an answer isn't to hold, as sequences of tokens."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from model.grammar import ANYTHING
from server.api.generation import Prompt
from server.errors import InvalidRequest
from server.protocol.common import GenerationRequest
from server.served import ServedModel


def without_bad_words(prompts: Sequence[Prompt], body: GenerationRequest, model: ServedModel) -> list[Prompt]:
    """The prompts, whose answers are kept from the request's bad words. Raises InvalidRequest where they can't be."""
    words = tuple(dict.fromkeys(ids for word in body.bad_words for ids in _spellings(word, model)))
    if not words:
        return list(prompts)
    if not model.follows_grammars:
        raise InvalidRequest("this model's tokenizer gives no token a text of its own", param="bad_words")
    return [
        replace(
            prompt,
            params=structs.replace(prompt.params, bad_words=words, grammar=prompt.params.grammar or ANYTHING),
        )
        for prompt in prompts
    ]


def _spellings(word: str, model: ServedModel) -> list[tuple[int, ...]]:
    """The word's tokens at the beginning of a word, which for most tokenizers includes a space, and within one.

    A spelling that the tokenizer has no tokens for, or the model no embedding, is never written.
    """
    texts = (word, word if word.startswith(" ") else f" {word}")
    spelled = [tuple(model.tokenizer.encode_continuation(text)) for text in texts]
    return [ids for ids in spelled if ids and max(ids) < model.info.vocab_size]
