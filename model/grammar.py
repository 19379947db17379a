"""What a text may look like, and which texts a model's tokens are: plain data, as it crosses process borders."""

from typing import Literal

import msgspec


class Grammar(msgspec.Struct, frozen=True):
    """The set of texts that a request allows."""

    kind: Literal["json_schema", "regex", "ebnf"]
    """`ebnf` is Lark's notation or, where no rule is called `start`, llama.cpp's GBNF."""
    text: str
    is_lenient: bool = False
    """Of a JSON schema: keywords that can't be enforced are left out, each with a warning, instead of refused."""


class Vocabulary(msgspec.Struct, frozen=True):
    """What each token adds to a text."""

    tokens: list[bytes]
    """By id, one for each row of the model's embedding; empty where an id is no token."""
    special_ids: list[int]
    """Tokens that stand for no text: a grammar never allows them for their spelling."""
    eos_ids: list[int]
    """Tokens that end a text; at least one."""


class Verdict(msgspec.Struct, frozen=True):
    """What compiling a grammar said."""

    error: str = ""
    """Why it can't be used, for the person who wrote it; empty if it can."""
    warnings: list[str] = []
    """What a lenient grammar leaves unchecked."""
