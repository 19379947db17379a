"""Failures as HTTP: OpenAI's error object for every one of them."""

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from server.errors import InvalidRequest, MethodNotAllowed, NotFound, RequestError, ServerError
from server.protocol.errors import ErrorAnswer, ErrorObject


def install_error_handlers(app: FastAPI) -> None:
    """Make every refusal of the app, and of the framework below it, look the same."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


def error_body(error: RequestError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = error.kind
    return msgspec.json.encode(ErrorAnswer(ErrorObject(error.message, kind.type, error.param, kind.code)))


def error_response(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """The error as an answer, with Retry-After where trying again makes sense."""
    kind = error.kind
    headers = dict(headers or {})
    if kind.retry_after_s is not None:
        headers["retry-after"] = str(kind.retry_after_s)
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error_body(error), kind.status, headers, media_type="application/json")


def unexpected(request_id: str) -> ServerError:
    """What a client is told of an exception that nobody foresaw: nothing of it, and where to find it."""
    return ServerError(f"the server had an error; its log tells more under the request id {request_id}")


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return error_response(NotFound("nothing is at this path; /docs lists what is"), headers)
        case 405:
            allowed = headers.get("Allow", "another method")
            return error_response(MethodNotAllowed(f"this path takes {allowed}"), headers)
        case _:
            return error_response(InvalidRequest("the request can't be read"), headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    # Bodies are read by `json_body`: only path and query are left for the framework to refuse.
    return error_response(InvalidRequest("a parameter of the path or the query is not valid"))
