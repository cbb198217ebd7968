"""The user's requests as a gallery, newest first."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.lifecycle import LIVE, TERMINAL, State
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import StudioVisitor
from creativeflow.services.aigeneration.web.studio.account import load_account
from creativeflow.services.aigeneration.web.studio.choices import get_format_title
from creativeflow.services.aigeneration.web.studio.presenter import find_thumbnail, get_status_text
from creativeflow.services.aigeneration.web.templating import create_page_router, render_page

PAGE_SIZE = 24
STATE_FILTERS = {
    "all": ("All", ()),
    "selection": ("Your turn", (State.AWAITING_SELECTION,)),
    "working": ("In progress", tuple(sorted(LIVE - {State.AWAITING_SELECTION}))),
    "ready": ("Ready", (State.COMPLETED,)),
    "ended": ("Ended without an image", tuple(sorted(TERMINAL - {State.COMPLETED}))),
}
"""Filters by name: label and states."""

router = create_page_router("/studio")


@router.get("/history")
async def show_history(
    request: Request,
    visitor: StudioVisitor,
    show: Annotated[str, Query(max_length=20)] = "all",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Show one page of the gallery; it refreshes while any request is in progress."""
    show = show if show in STATE_FILTERS else "all"
    user_id = visitor.session.user_id
    filters = Filters(user_id=user_id, states=STATE_FILTERS[show][1], before=read_cursor(cursor))
    found = await services_of(request).queries.page(filters, PAGE_SIZE + 1)
    items = found[:PAGE_SIZE]
    return render_page(
        request,
        "studio/history.html",
        items=items,
        show=show,
        state_filters=STATE_FILTERS,
        is_first_page=cursor is None,
        older=write_cursor(items[-1].id) if len(found) > PAGE_SIZE else None,
        status_text=get_status_text,
        thumbnail=find_thumbnail,
        format_title=get_format_title,
        account=await load_account(request, user_id),
    )
