"""The OpenAPI document: bodies are read by our own dependency, so it is told of them here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from server.protocol.wire import WireModel

_REF = "#/components/schemas/{model}"


def describes(body: type[WireModel]) -> dict[str, Any]:
    """A route's `openapi_extra` that says what its body is."""
    schema = {"$ref": _REF.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def openapi_document(app: FastAPI, bodies: list[type[WireModel]]) -> dict[str, Any]:
    """The document of all routes, with the schemas of these bodies."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path in document["paths"].values():
        for operation in path.values():
            # The framework's own answer to a bad parameter, which ours replaces.
            operation["responses"].pop("422", None)
    return document
