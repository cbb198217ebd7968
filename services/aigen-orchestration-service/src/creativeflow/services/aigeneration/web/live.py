"""Event streams of pages: they signal that a request has changed, without its content.

A stream ends with the session.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import Request
from starlette.responses import StreamingResponse

from creativeflow.services.aigeneration.api.live_updates import parse_event_id, stream_updates
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.web.services import web_services_of
from creativeflow.services.aigeneration.web.sessions import Session, Sessions


def stream_request_changes(
    request: Request, session: Session, found: GenerationRequest
) -> StreamingResponse:
    """Stream `changed` events for `live.js`, and `ended` after the last.

    The first event is sent at once if the request has changed since the version that the client
    knows: `Last-Event-ID` after a reconnect, else the version shown on the page (`seen`).
    """
    broadcaster = services_of(request).updates
    broadcaster.check_limits(found.user_id)
    known = parse_event_id(request.headers.get("last-event-id") or request.query_params.get("seen"))
    events = stream_updates(
        broadcaster, found, encode=_encode_change, send_first=known != found.version
    )
    body = end_with_session(events, web_services_of(request).sessions, session)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def end_with_session(
    events: AsyncIterator[bytes], sessions: Sessions, session: Session
) -> AsyncIterator[bytes]:
    """Relay events until the session ends, checked at every event and heartbeat."""
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if not await sessions.is_live(session):
                return
            yield event
    yield b"event: ended\ndata: -\n\n"


def _encode_change(request: GenerationRequest) -> bytes:
    return b"id: %d\nevent: changed\ndata: %d\n\n" % (request.version, request.version)
