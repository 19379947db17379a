"""Reading a JSON body: its size, its encoding and its fields are checked before anything else sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from server.api.body_extent import check_extent
from server.api.exchange import exchange_of
from server.errors import BodyTimeout, ClientDisconnected, InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from server.protocol.wire import WireModel, unknown_fields

# Larger bodies are parsed in a thread, so that other streams don't wait for them.
MAX_INLINE_BYTES = 16 * 1024
# A body that trickles in holds a connection and memory for nothing.
MAX_READ_S = 60.0
# Unknown fields beyond these are not named one by one.
MAX_WARNINGS = 8

T = TypeVar("T", bound=WireModel)


def json_body(
    model: type[T], *, max_bytes: int, strict_fields: bool, is_kept: Callable[[Request], bool]
) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads the request's body as `model`, and leaves it in the exchange if `is_kept` says so.

    It raises UnsupportedMediaType, PayloadTooLarge, BodyTimeout, or InvalidRequest naming the first field at fault.
    Unknown fields are such a fault if `strict_fields`, else they become warnings of the exchange.
    """

    async def read(request: Request) -> T:
        _check_media_type(request)
        body = await _read(request, max_bytes)
        if is_kept(request):
            exchange_of(request).body = body
        if len(body) > MAX_INLINE_BYTES:
            parsed, warnings = await asyncio.to_thread(_parse, model, body, strict_fields)
        else:
            parsed, warnings = _parse(model, body, strict_fields)
        exchange_of(request).warnings += warnings
        return parsed

    return read


def _check_media_type(request: Request) -> None:
    media_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    if media_type.strip() != "application/json":
        raise UnsupportedMediaType("the body must be JSON, with the header content-type: application/json")
    charsets = [
        value.strip(' "') for name, _, value in (p.partition("=") for p in parameters) if name.strip() == "charset"
    ]
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise UnsupportedMediaType("the body must be JSON in UTF-8")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = PayloadTooLarge(f"the body has more than {max_bytes} bytes, the most that this server reads")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 15 or int(length) > max_bytes):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except ClientDisconnect as error:
        raise ClientDisconnected("the client left before its request was complete") from error
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {MAX_READ_S:.0f} s") from None
    return bytes(body)


def _parse(model: type[T], body: bytes, strict_fields: bool) -> tuple[T, list[str]]:
    check_extent(body)
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False, include_input=False, include_context=False)[0]) from None
    unknown = list(unknown_fields(parsed))
    if unknown and strict_fields:
        raise InvalidRequest(str(unknown[0]), param=unknown[0].path[:80])
    warnings = [str(field) for field in unknown[:MAX_WARNINGS]]
    if len(unknown) > MAX_WARNINGS:
        warnings.append(f"{len(unknown) - MAX_WARNINGS} more unknown fields")
    return parsed, warnings


def _invalid(error: ErrorDetails) -> InvalidRequest:
    """Pydantic's sentence after the field's name. It never holds a value of the request."""
    # The path may end in a key of an object that the client filled, which could be any text of any length.
    path = [str(part) for part in error["loc"]][:8]
    names = [part for part in path if len(part) <= 64 and (part.isidentifier() or part.isdecimal())]
    param = ".".join(names)
    # Clients show the message, and many of them nothing else.
    return InvalidRequest(f"{param}: {error['msg']}" if param else error["msg"], param=param or None)
