"""Failures as HTTP: OpenAI's error object for every one of them."""

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from server.api.exchange import exchange_of
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
    return _refusal(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return _refusal(request, NotFound("nothing is at this path; /docs lists what is"), headers)
        case 405:
            allowed = ", ".join(_methods(request))
            return _refusal(request, MethodNotAllowed(f"this path takes {allowed}"), {"allow": allowed})
        case _:
            return _refusal(request, InvalidRequest("the request can't be read"), headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    # Bodies are read by `json_body`: only path and query are left for the framework to refuse.
    return _refusal(request, InvalidRequest("a parameter of the path or the query is not valid"))


def _refusal(request: Request, error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """The error as an answer, and told in the request's log line too: a message holds no text of a prompt."""
    said = {"code": error.kind.code, "param": error.param, "error": error.message}
    exchange_of(request).log_fields |= {name: text for name, text in said.items() if text is not None}
    return error_response(error, headers)


def _methods(request: Request) -> list[str]:
    """All that the path takes. The framework names those of one route, and a path may have several."""
    routes = [context.original_route for context in iter_route_contexts(request.app.routes)]
    at_path = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return sorted({method for route in at_path for method in getattr(route, "methods", None) or ()})
