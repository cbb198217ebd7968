"""What pages listen to: that a request has changed, never what it is now, for as long as the
session lasts.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import Request
from starlette.responses import StreamingResponse

from creativeflow.services.aigeneration.api.live_updates import (
    UpdateBroadcaster,
    updates,
    version_of,
)
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.web.sessions import Session, Sessions


def changes(request: Request, session: Session, found: GenerationRequest) -> StreamingResponse:
    """A stream of `changed` events for `live.js`, and `ended` after the last.

    The first comes at once where the request moved on between the page and its stream:
    `Last-Event-ID` of a stream that broke off, or the version which the page shows.
    """
    hub: UpdateBroadcaster = request.app.state.hub
    hub.check_room(found.user_id)
    known = version_of(request.headers.get("last-event-id") or request.query_params.get("seen"))
    told = updates(hub, found, say=_changed, send_first=known != found.version)
    body = while_signed_in(told, request.app.state.sessions, session)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def while_signed_in(
    told: AsyncIterator[bytes], sessions: Sessions, session: Session
) -> AsyncIterator[bytes]:
    """Checked with every event and every heartbeat."""
    async with aclosing(told):  # type: ignore[type-var]
        async for event in told:
            if not sessions.seconds_left(session):
                return
            yield event
    yield b"event: ended\ndata: -\n\n"


def _changed(request: GenerationRequest) -> bytes:
    return b"id: %d\nevent: changed\ndata: %d\n\n" % (request.version, request.version)
