"""`GET /v1/streams/{id}`: going on with a stream whose connection broke."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.sse import EventStream
from server.errors import InvalidRequest


def streams_router(api: ApiContext) -> APIRouter:
    """The endpoint, with what it needs."""
    router = APIRouter()

    @router.get("/v1/streams/{request_id}", openapi_extra=_GIVES)
    async def resume_stream(request: Request, request_id: str) -> Response:
        """The events of a stream that was asked for with `x-resumable: 1`, after the one of the header Last-Event-ID.

        The id is the stream's x-request-id. Without Last-Event-ID the stream begins anew; after its [DONE] there is
        nothing more, which a 204 says: browsers' EventSource comes back until it gets one.
        """
        if (home := api.home_of(request_id)) is not None:
            return home.pass_on(request)
        kept = api.streams.find(api.keys.identify(request), request_id)
        last_id = _last_event_id(request)
        if kept.is_over_after(last_id):
            return Response(status_code=204)
        return EventStream(kept.read(last_id), first_id=last_id + 1)

    return router


_GIVES = {
    "responses": {
        "200": {"description": "The events.", "content": {"text/event-stream": {}}},
        "204": {"description": "The client has all of them."},
    }
}


def _last_event_id(request: Request) -> int:
    given = request.headers.get("last-event-id", "") or "0"
    if not (given.isascii() and given.isdecimal() and len(given) <= 9):
        raise InvalidRequest("Last-Event-ID is the number that an event had as its id", param="last-event-id")
    return int(given)
