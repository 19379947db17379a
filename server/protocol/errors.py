"""The answer of every request that is refused or fails."""

import msgspec


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an answer with a status of 400 and above, and of the event that ends a stream with an error."""

    error: ErrorObject
