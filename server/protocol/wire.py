"""What every JSON body that we read has in common: strict types, null as "not given", unknown fields noticed."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from server.errors import InvalidRequest


class Refusal(NamedTuple):
    """A field that we know and don't honour: refused, since leaving it out changes what the request means."""

    reason: str
    """Ends the sentence "'field' is not supported: ..." and says what to do instead."""
    harmless: tuple[object, ...] = ()
    """Values that ask for nothing beyond what happens anyway."""

    def allows(self, value: object) -> bool:
        """Whether the value is a harmless one. Types count: 1 is not true."""
        return any(type(value) is type(harmless) and value == harmless for harmless in self.harmless)


class WireModel(BaseModel):
    """An object of a request body. Fields that it doesn't declare are kept apart for `unknown_fields`."""

    # Docstrings of fields are what OpenAPI and /docs say of them.
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )

    refused: ClassVar[Mapping[str, Refusal]] = {}
    members_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Fields that only some variants of the object have: with another one nobody reads them."""
    discriminator: ClassVar[str] = ""
    """The field that says which variant it is, where there are some."""

    @property
    def variant(self) -> str:
        """What kind of object it is, for those that have several."""
        return str(getattr(self, self.discriminator)) if self.discriminator else ""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}


class UnknownField(NamedTuple):
    """A field of the body that nobody reads."""

    holder: WireModel
    """The object that it stands in."""
    prefix: str
    """Where that object stands, as the beginning of a path."""
    name: str

    @property
    def path(self) -> str:
        """Where it stands."""
        return self.prefix + self.name

    def __str__(self) -> str:
        # Here, and not for each of a hundred thousand: a suggestion takes 20 us.
        name = ascii(self.path[:80])
        if self.name in type(self.holder).model_fields:
            return f"field {name} has no effect with {self.holder.variant!r}"
        suggestion = _closest(self.name, self.holder)
        return f"unknown field {name}" + (f", did you mean {suggestion!r}?" if suggestion else "")


def unknown_fields(model: WireModel, path: str = "") -> Iterator[UnknownField]:
    """The fields at any depth that we have never heard of, or that belong to another variant of their object.

    Raises InvalidRequest for the first one that we do know and that the model refuses.
    """
    for name, value in (model.model_extra or {}).items():
        refusal = model.refused.get(name)
        if refusal is None:
            yield UnknownField(model, path, name)
        elif not refusal.allows(value):
            raise InvalidRequest(f"{path + name!r} is not supported: {refusal.reason}", param=path + name)
    for name in type(model).model_fields:
        if name in model.model_fields_set and model.variant not in model.members_of.get(name, (model.variant,)):
            yield UnknownField(model, path, name)
        yield from _unknown_below(getattr(model, name), f"{path}{name}.")


def _unknown_below(value: object, path: str) -> Iterator[UnknownField]:
    if isinstance(value, WireModel):
        yield from unknown_fields(value, path)
    elif isinstance(value, list) and value and isinstance(value[0], WireModel):
        for index, item in enumerate(value):
            yield from unknown_fields(item, f"{path}{index}.")


def _closest(name: str, model: WireModel) -> str | None:
    known = [*type(model).model_fields, *model.refused]
    # Long names are never typing errors, and comparing them is quadratic.
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), None) if len(name) <= 64 else None
