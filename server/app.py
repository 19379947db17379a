"""The HTTP application, wired: routers, middleware, error handlers. No logic."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.api.auth import KeyRing
from server.api.chat import chat_router
from server.api.completions import completions_router
from server.api.context import ApiContext, ApiSettings
from server.api.docs import docs_router
from server.api.error_responses import install_error_handlers
from server.api.health import health_router, metrics_router, version_router
from server.api.models import models_router
from server.api.observe import Observe
from server.api.resumable import ResumableStreams
from server.api.siblings import Siblings
from server.api.stored_chats import stored_chats_router
from server.api.streams import streams_router
from server.api.tokenize import tokenize_router
from server.metrics import Metrics
from server.served import ServedModels
from server.store import ChatStore


class AppSettings(ApiSettings, Protocol):
    """The settings that the application needs."""

    @property
    def api_key(self) -> tuple[str, ...]: ...
    @property
    def allowed_origins(self) -> tuple[str, ...]: ...
    @property
    def root_path(self) -> str: ...
    @property
    def metrics_open(self) -> bool: ...


def create_app(
    settings: AppSettings,
    served: ServedModels,
    *,
    version: str,
    store: ChatStore | None = None,
    metrics: Metrics | None = None,
    siblings: Siblings | None = None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The application that serves these models; `lifespan` starts and stops their engines.

    Without a `store`, requests to store an answer are refused. `metrics` is what the application counts in, its own if
    not given. `siblings` are the other processes that serve the same port.
    """
    app = FastAPI(
        title="nexttoken",
        version=version,
        root_path=settings.root_path,
        lifespan=lifespan,
        redirect_slashes=False,
        # Ours stand behind the key.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    metrics = metrics or Metrics(served.engines)
    api = ApiContext(
        served=served,
        settings=settings,
        keys=KeyRing(settings.api_key),
        metrics=metrics,
        streams=ResumableStreams(settings.stream_resume_s),
        store=store,
        siblings=siblings,
    )
    needs_key = [Depends(api.keys.require)]
    app.include_router(health_router(api))
    app.include_router(metrics_router(api), dependencies=[] if settings.metrics_open else needs_key)
    for router in (
        completions_router(api),
        chat_router(api),
        stored_chats_router(api),
        streams_router(api),
        models_router(api),
        tokenize_router(api),
        version_router(version),
        docs_router(),
    ):
        app.include_router(router, dependencies=needs_key)
    install_error_handlers(app)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-nexttoken-warnings", "openai-processing-ms", "server-timing"],
        )
    app.add_middleware(Observe, metrics=metrics)
    return app
