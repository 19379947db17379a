"""`GET /v1/models`: the answers."""

from typing import Annotated, Literal

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nexttoken"
    max_model_len: Annotated[
        int | msgspec.UnsetType, msgspec.Meta(description="Context in tokens; absent until the model is loaded.")
    ] = msgspec.UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All served names."""

    object: Literal["list"] = "list"
    data: list[Model]
