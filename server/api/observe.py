"""The outermost middleware: an id, a log line and a count for every request, and the last word on exceptions."""

import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.error_responses import error_response, unexpected
from server.api.exchange import Exchange
from server.api.siblings import is_from_sibling
from server.metrics import Metrics

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PROBES = frozenset(("/health", "/ready", "/metrics"))
MAX_LOGGED_CHARS = 200


class Observe:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(_request_id(Headers(scope=scope).get("x-request-id", "")), send_body=send)
        scope.setdefault("state", {})["exchange"] = exchange
        started = time.monotonic()
        status = 499  # what stays if nothing was sent, which happens when the server is told to end at once

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), exchange, time.monotonic() - started)
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception:
            logger.exception("event=request_failed id=%s", exchange.request_id)
            if status == 499:
                await error_response(unexpected(exchange.request_id))(scope, receive, send_observed)
        finally:
            if not is_from_sibling(scope):  # which counts it
                self._metrics.http_requests.labels(_endpoint(scope), f"{status // 100}xx").inc()
            _log(scope, exchange, status, time.monotonic() - started)


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _add_headers(headers: MutableHeaders, exchange: Exchange, duration_s: float) -> None:
    headers["x-request-id"] = exchange.request_id
    headers["openai-processing-ms"] = str(round(duration_s * 1000))
    if exchange.receipt is not None and (timing := exchange.receipt.server_timing()):
        headers["server-timing"] = timing
    if exchange.warnings:
        headers["x-nexttoken-warnings"] = "; ".join(exchange.warnings)


def _endpoint(scope: Scope) -> str:
    route = scope.get("route")
    return route.path_format if route is not None else "unmatched"


def _log(scope: Scope, exchange: Exchange, status: int, duration_s: float) -> None:
    fields = {"method": scope["method"], "path": scope["path"], "status": status, "duration_s": round(duration_s, 4)}
    if exchange.warnings:
        fields["warnings"] = "; ".join(exchange.warnings)
    line = " ".join(f"{name}={_quoted(value)}" for name, value in (fields | exchange.log_fields).items())
    # Probes come every few seconds and would drown the rest.
    level = logging.DEBUG if _endpoint(scope) in _PROBES else logging.INFO
    logger.log(level, "event=request id=%s %s", exchange.request_id, line)


def _quoted(value: str | int | float) -> str:
    """A client's text can't begin a line or a field of its own: it is cut, escaped and quoted."""
    return json.dumps(value[:MAX_LOGGED_CHARS]) if isinstance(value, str) else str(value)
