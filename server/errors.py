"""The errors that a client of the server can meet.

Messages are ours, written for the person who sent the request: they name the thing, the value's limit and the way
out, and never hold what the request held (an echoed prompt ends up in other people's logs).
"""

from typing import NamedTuple


class RequestError(Exception):
    """A request that ends without the answer it asked for; `param` names the field, as `messages.2.role`."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def kind(self) -> "ErrorKind":
        """How this error looks from outside, its own or that of the nearest class above it."""
        return next(KINDS[cls] for cls in type(self).__mro__ if cls in KINDS)


class InvalidRequest(RequestError):
    """A value is missing, of the wrong type, out of range, or asks for what this server doesn't do."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and wanted tokens don't fit into the model's context."""


class AuthenticationError(RequestError):
    """No API key, or one that isn't ours."""


class NotFound(RequestError):
    """Nothing is at this path."""


class ModelNotFound(NotFound):
    """No model of this name is served."""


class MethodNotAllowed(RequestError):
    """The path exists, for other methods."""


class BodyTimeout(RequestError):
    """The body didn't arrive in time."""


class PayloadTooLarge(RequestError):
    """The body has more bytes than the server reads."""


class UnsupportedMediaType(RequestError):
    """The body isn't plain JSON."""


class ClientDisconnected(RequestError):
    """The client went away before the answer was complete. Nobody reads this one, but the log counts it."""


class QueueFull(RequestError):
    """As many requests wait as may wait."""


class Unavailable(RequestError):
    """The server lives and can't take requests now; trying again later is right."""


class NotReady(Unavailable):
    """The model is still loading, or the worker restarts."""


class Draining(Unavailable):
    """The server is shutting down."""


class EngineDead(Unavailable):
    """The worker died and can't be started again."""


class ServerError(RequestError):
    """Our own fault. Clients get one fixed sentence; what happened is in the log under the request's id."""


class ErrorKind(NamedTuple):
    """An error class as HTTP and OpenAI's error object show it."""

    status: int
    type: str
    code: str | None = None
    retry_after_s: int | None = None


KINDS: dict[type[RequestError], ErrorKind] = {
    InvalidRequest: ErrorKind(400, "invalid_request_error"),
    ContextLengthExceeded: ErrorKind(400, "invalid_request_error", "context_length_exceeded"),
    AuthenticationError: ErrorKind(401, "authentication_error", "invalid_api_key"),
    NotFound: ErrorKind(404, "not_found_error", "not_found"),
    ModelNotFound: ErrorKind(404, "not_found_error", "model_not_found"),
    MethodNotAllowed: ErrorKind(405, "invalid_request_error", "method_not_allowed"),
    BodyTimeout: ErrorKind(408, "invalid_request_error", "body_timeout"),
    PayloadTooLarge: ErrorKind(413, "invalid_request_error", "payload_too_large"),
    UnsupportedMediaType: ErrorKind(415, "invalid_request_error", "unsupported_media_type"),
    QueueFull: ErrorKind(429, "rate_limit_error", "rate_limit_exceeded", 1),
    ClientDisconnected: ErrorKind(499, "client_error", "client_disconnected"),
    ServerError: ErrorKind(500, "server_error"),
    NotReady: ErrorKind(503, "service_unavailable_error", "not_ready", 2),
    Draining: ErrorKind(503, "service_unavailable_error", "draining", 5),
    EngineDead: ErrorKind(503, "service_unavailable_error", "engine_dead", 30),
}
