"""`GET /health`, `GET /ready` and `GET /version`: the answers."""

import msgspec


class Health(msgspec.Struct, frozen=True):
    """The phase of the server's life, and how far it is."""

    status: str
    detail: str
    fraction: float


class Version(msgspec.Struct, frozen=True):
    """What runs here."""

    version: str
