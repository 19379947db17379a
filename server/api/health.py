"""`GET /health`, `GET /ready`, `GET /metrics` and `GET /version`: for those who run the server."""

import msgspec
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from server.api.context import ApiContext
from server.api.openapi import gives
from server.engine.interface import EngineStatus
from server.protocol.health import Health, Version

# Phases in which the process does its work, whether or not it takes requests now.
_ALIVE = ("starting", "ready", "draining")


def health_router(api: ApiContext) -> APIRouter:
    """Liveness and readiness, open to all: probes have no key, and learn nothing but the phase."""
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health", openapi_extra=gives(Health, statuses=(200, 503)))
    async def health() -> Response:
        """200 while the worker lives or loads, 503 with the reason when it died."""
        return _report([model.engine.status for model in api.served], _ALIVE)

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", openapi_extra=gives(Health, statuses=(200, 503)))
    async def ready() -> Response:
        """200 while requests are taken, else 503 with the phase and how far it is."""
        return _report([model.engine.status for model in api.served], ("ready",))

    return router


def metrics_router(api: ApiContext) -> APIRouter:
    """Prometheus' endpoint."""
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """All metrics in Prometheus' text format."""
        counts = api.metrics.counts()
        if api.siblings is not None:
            counts = await api.siblings.summed_counts(counts)
        text = api.metrics.engine_numbers() + counts
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def version_router(version: str) -> APIRouter:
    """What runs here."""
    router = APIRouter()

    @router.get("/version", openapi_extra=gives(Version))
    async def show_version() -> Response:
        """The server's version."""
        return Response(msgspec.json.encode(Version(version)), media_type="application/json")

    return router


def _report(statuses: list[EngineStatus], good: tuple[str, ...]) -> Response:
    # The first bad one tells what is wrong.
    status = next((status for status in statuses if status.phase not in good), statuses[0])
    is_good = status.phase in good
    content = Health(status.phase, status.detail, round(status.fraction, 3))
    headers = {} if is_good else {"retry-after": "2"}
    return Response(msgspec.json.encode(content), 200 if is_good else 503, headers, media_type="application/json")
