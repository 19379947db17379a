"""`GET /docs` and `GET /openapi.json`: the API described, behind the key as everything else."""

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.openapi import openapi_document
from server.protocol.chat import ChatCompletionRequest
from server.protocol.completions import CompletionRequest
from server.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from server.protocol.wire import WireModel

BODIES: list[type[WireModel]] = [CompletionRequest, ChatCompletionRequest, TokenizeRequest, DetokenizeRequest]


def docs_router() -> APIRouter:
    """The endpoints."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        """A page to read and to try the API; its script comes from a CDN."""
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(openapi_url=f"{root}/openapi.json", title="nexttoken")

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(openapi_document(request.app, BODIES))

    return router
