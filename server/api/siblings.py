"""What the API needs of the other processes that serve the same port, where there are any."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope


class Sibling(Protocol):
    """One other process."""

    def pass_on(self, request: Request) -> Response:
        """What it answers to this request, with the body that the exchange has kept."""


class Siblings(Protocol):
    """All other processes."""

    def home_of(self, request_id: str) -> Sibling | None:
        """The process that keeps the stream of this request, if that is another."""

    async def summed_counts(self, counts: str) -> str:
        """The sum of what all have counted, given what this one has. Raises NotReady."""


def is_from_sibling(scope: Scope) -> bool:
    """Whether another process has passed this request on, over a Unix socket, whose address is a path."""
    host, _ = scope.get("server") or ("", None)
    return str(host).startswith("/")
