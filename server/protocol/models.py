"""`GET /v1/models`: the answers."""

from typing import Annotated, Literal

import msgspec


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What requests to a model may ask for."""

    completions: bool = True
    chat: bool
    logprobs: bool
    structured_outputs: bool
    """JSON schemas, regular expressions, choices and grammars that the text is kept to."""
    tools: bool
    """Whether the server knows how the model writes tool calls."""
    reasoning: bool
    """Whether the server knows how the model marks its thoughts."""
    fill_in_the_middle: bool
    """Whether completions take a `suffix`."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nexttoken"
    max_model_len: Annotated[
        int | msgspec.UnsetType, msgspec.Meta(description="Context in tokens; absent until the model is loaded.")
    ] = msgspec.UNSET
    capabilities: Annotated[
        Capabilities | msgspec.UnsetType, msgspec.Meta(description="Absent until the model is loaded.")
    ] = msgspec.UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All served names."""

    object: Literal["list"] = "list"
    data: list[Model]
