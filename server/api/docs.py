"""`GET /docs` and `GET /openapi.json`: the API described, behind the key as everything else."""

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from server.api.docs_page import docs_page
from server.api.openapi import Answer, openapi_document
from server.protocol.chat import ChatCompletionRequest
from server.protocol.chat_answer import ChatCompletion, ChatCompletionChunk
from server.protocol.completions import Completion, CompletionRequest
from server.protocol.health import Health, Version
from server.protocol.models import Model, ModelList
from server.protocol.stored_chats import ChatCompletionDeleted, StoredChatCompletion, StoredList, UpdateChatRequest
from server.protocol.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)
from server.protocol.wire import WireModel

BODIES: list[type[WireModel]] = [
    CompletionRequest,
    ChatCompletionRequest,
    UpdateChatRequest,
    TokenizeRequest,
    DetokenizeRequest,
]
ANSWERS: list[Answer] = [
    Completion,
    ChatCompletion,
    ChatCompletionChunk,
    StoredChatCompletion,
    StoredList,
    ChatCompletionDeleted,
    Model,
    ModelList,
    TokenizeAnswer,
    DetokenizeAnswer,
    TokenizerInfo,
    Health,
    Version,
]


def docs_router() -> APIRouter:
    """The endpoints."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def front_door(request: Request) -> Response:
        """Who opens the server in a browser wants to know what it can do."""
        return RedirectResponse(request.scope.get("root_path", "") + "/docs")

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        """A page to read, which needs nothing from anywhere else."""
        page = docs_page(_document(request.app), str(request.base_url).rstrip("/"))
        return HTMLResponse(page, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(_document(request.app))

    return router


def _document(app: FastAPI) -> dict[str, Any]:
    # Made when first asked for, since routes are added until the app is complete, and kept: it takes a while.
    if app.openapi_schema is None:
        app.openapi_schema = openapi_document(app, BODIES, ANSWERS)
    return app.openapi_schema
