"""What is known of one HTTP exchange while it lasts: its id, and what its log line and headers will say."""

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Scope, Send

from server.api.receipt import Receipt


@dataclass(slots=True)
class Exchange:
    """Made by the outermost middleware, filled by whoever learns something, read again by the middleware."""

    request_id: str
    log_fields: dict[str, str | int | float] = field(default_factory=dict)
    """What the log line says beside method, path, status and duration."""
    warnings: list[str] = field(default_factory=list)
    """About fields of the request that have no effect."""
    receipt: Receipt | None = None
    """Where the time went, of a request that generates."""
    body: bytes = b""
    """The request's, where another process may have to read it again."""
    send_body: Send | None = None
    """The server's own send, for a body in many pieces: every layer between looks at the answer's start alone."""


def exchange_in(scope: Scope) -> Exchange:
    """The exchange that a request's scope belongs to."""
    exchange = scope["state"]["exchange"]
    assert isinstance(exchange, Exchange)
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    return exchange_in(request.scope)
