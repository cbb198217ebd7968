"""Live progress as server-sent events: one poll per process for all subscribers."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from creativeflow.services.aigeneration.api.auth import AnyCaller, Principal
from creativeflow.services.aigeneration.api.dependencies import get_owned_request
from creativeflow.services.aigeneration.api.live_updates import parse_event_id, stream_updates
from creativeflow.services.aigeneration.api.responses import json_bytes
from creativeflow.services.aigeneration.api.routing import problems
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest

log = structlog.get_logger(__name__)


router = APIRouter(prefix="/api/v1/generation-requests", tags=["generation requests"])


@router.get(
    "/{request_id}/stream",
    responses=problems(401, 404, 429, 503)
    | {200: {"content": {"text/event-stream": {}}, "description": "Live updates"}},
    summary="Stream a generation request (server-sent events)",
    response_class=StreamingResponse,
)
async def stream_generation(
    request_id: UUID, request: Request, principal: AnyCaller
) -> StreamingResponse:
    """Send every change as a snapshot under `id: <version>`, until the request or the token ends.

    Resumes after `Last-Event-ID`.
    """
    found = await get_owned_request(services_of(request).queries, request_id, principal)
    known = parse_event_id(request.headers.get("last-event-id"))
    known = (
        known if known <= found.version else 0
    )  # the id belongs to another request: start from the beginning
    broadcaster = services_of(request).updates
    broadcaster.check_limits(found.user_id)
    body = stream_updates(
        broadcaster,
        found,
        encode=_encode_event,
        send_first=known < found.version,
        count_seconds_left=_life_of(principal, services_of(request).now),
    )
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _life_of(principal: Principal, now: Callable[[], datetime]) -> Callable[[], float] | None:
    ends = principal.expires_at
    if ends is None:
        return None

    def count_seconds_left() -> float:
        return (ends - now()).total_seconds()

    return count_seconds_left


def _encode_event(request: GenerationRequest) -> bytes:
    return b"id: %d\nevent: generation.updated\ndata: %b\n\n" % (
        request.version,
        json_bytes(to_resource(request)),
    )
