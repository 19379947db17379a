"""`GET /v1/models` and `GET /v1/models/{id}`."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.openapi import gives
from server.protocol.models import Capabilities, Model, ModelList
from server.served import ServedModel
from server.text.gap_tokens import gap_tokens


def models_router(api: ApiContext) -> APIRouter:
    """The endpoints, with what they need."""
    router = APIRouter()

    @router.get("/v1/models", openapi_extra=gives(ModelList))
    async def list_models() -> Response:
        """Every served name."""
        models = [_model(api, name, model) for name, model in api.served.by_name.items()]
        return Response(msgspec.json.encode(ModelList(data=models)), media_type="application/json")

    # Ids of the hub hold a slash.
    @router.get("/v1/models/{model_id:path}", openapi_extra=gives(Model))
    async def retrieve_model(model_id: str) -> Response:
        """One served name."""
        model = api.served.find(model_id)
        return Response(msgspec.json.encode(_model(api, model_id, model)), media_type="application/json")

    return router


def _model(api: ApiContext, name: str, model: ServedModel) -> Model:
    info = model.engine.model
    if info is None:
        return Model(id=name, created=model.created)
    has_chat, gap = bool(model.template.source), gap_tokens(model.tokenizer)
    capabilities = Capabilities(
        chat=has_chat,
        logprobs=api.settings.max_logprobs > 0,
        structured_outputs=model.follows_grammars,
        tools=has_chat and model.dialect.tool_format is not None,
        reasoning=model.dialect.tags is not None,
        fill_in_the_middle=gap is not None and gap.middle < info.vocab_size,
    )
    return Model(id=name, created=model.created, max_model_len=info.max_model_len, capabilities=capabilities)
