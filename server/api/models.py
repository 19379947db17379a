"""`GET /v1/models` and `GET /v1/models/{id}`."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.openapi import gives
from server.protocol.models import Model, ModelList
from server.served import ServedModel


def models_router(api: ApiContext) -> APIRouter:
    """The endpoints, with what they need."""
    router = APIRouter()

    @router.get("/v1/models", openapi_extra=gives(ModelList))
    async def list_models() -> Response:
        """Every served name."""
        models = [_model(name, model) for name, model in api.served.by_name.items()]
        return Response(msgspec.json.encode(ModelList(data=models)), media_type="application/json")

    # Ids of the hub hold a slash.
    @router.get("/v1/models/{model_id:path}", openapi_extra=gives(Model))
    async def retrieve_model(model_id: str) -> Response:
        """One served name."""
        model = api.served.find(model_id)
        return Response(msgspec.json.encode(_model(model_id, model)), media_type="application/json")

    return router


def _model(name: str, model: ServedModel) -> Model:
    info = model.engine.model
    max_model_len = msgspec.UNSET if info is None else info.max_model_len
    return Model(id=name, created=model.created, max_model_len=max_model_len)
