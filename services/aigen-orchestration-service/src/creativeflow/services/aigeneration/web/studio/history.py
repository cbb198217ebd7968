"""Everything somebody has asked for: a wall of pictures, newest first."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import queries
from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.domain.lifecycle import LIVE, TERMINAL, State
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import StudioVisitor
from creativeflow.services.aigeneration.web.studio.account import account_of
from creativeflow.services.aigeneration.web.studio.choices import format_title
from creativeflow.services.aigeneration.web.studio.presenter import status_text, thumbnail
from creativeflow.services.aigeneration.web.templating import page, pages_router

PER_PAGE = 24
SHOWN = {
    "all": ("All", ()),
    "turn": ("Your turn", (State.AWAITING_SELECTION,)),
    "working": ("At work", tuple(sorted(LIVE - {State.AWAITING_SELECTION}))),
    "ready": ("Ready", (State.COMPLETED,)),
    "ended": ("Ended without a picture", tuple(sorted(TERMINAL - {State.COMPLETED}))),
}
"""What can be shown: its label and its states."""

router = pages_router("/studio")


@router.get("/history")
async def history(
    request: Request,
    visitor: StudioVisitor,
    show: Annotated[str, Query(max_length=20)] = "all",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """One page of it; while something is at work, the page looks again by itself."""
    show = show if show in SHOWN else "all"
    user_id = visitor.session.user_id
    filters = Filters(user_id=user_id, states=SHOWN[show][1], before=read_cursor(cursor))
    found = await queries(request).page(filters, PER_PAGE + 1)
    items = found[:PER_PAGE]
    return page(
        request,
        "studio/history.html",
        items=items,
        show=show,
        shown=SHOWN,
        first=cursor is None,
        older=write_cursor(items[-1].id) if len(found) > PER_PAGE else None,
        told=status_text,
        thumbnail=thumbnail,
        format_title=format_title,
        account=await account_of(request, user_id),
    )
