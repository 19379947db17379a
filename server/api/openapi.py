"""The OpenAPI document: bodies and answers pass by the framework, so it is told of them here."""

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from server.protocol.errors import ErrorAnswer
from server.protocol.wire import WireModel

Answer = type[msgspec.Struct]


def reads(body: type[WireModel], example: dict[str, Any]) -> dict[str, Any]:
    """The part of a route's `openapi_extra` that says what its body is."""
    content = {"application/json": {"schema": _ref(body), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def gives(answer: Answer, chunk: Answer | None = None, statuses: Sequence[int] = (200,)) -> dict[str, Any]:
    """The part of a route's `openapi_extra` that says what its answer is, and each event of a streamed one."""
    content = {"application/json": {"schema": _ref(answer)}}
    if chunk is not None:
        content["text/event-stream"] = {"schema": _ref(chunk)}
    return {"responses": {str(status): {"description": _summary(answer), "content": content} for status in statuses}}


def openapi_document(app: FastAPI, bodies: Sequence[type[WireModel]], answers: Sequence[Answer]) -> dict[str, Any]:
    """The document of all routes, with the schemas of these bodies and answers."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, of_bodies = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=_REF.format(name="{model}")
    )
    _, of_answers = msgspec.json.schema_components([*answers, ErrorAnswer], ref_template=_REF)
    document["components"] = {"schemas": of_bodies["$defs"] | of_answers}
    failure = {"description": _summary(ErrorAnswer), "content": {"application/json": {"schema": _ref(ErrorAnswer)}}}
    for path in document["paths"].values():
        for operation in path.values():
            # The framework's own answer to a bad parameter, which ours replaces.
            operation["responses"].pop("422", None)
            operation["responses"] |= {"4XX": failure, "5XX": failure}
    return document


_REF = "#/components/schemas/{name}"


def _ref(model: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=model.__name__)}


def _summary(model: type) -> str:
    return (model.__doc__ or "").partition("\n")[0]
