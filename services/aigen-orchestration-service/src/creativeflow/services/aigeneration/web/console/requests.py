"""The table of requests: search by id, user or project, filters by state and time, pagination."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL, WITH_JOB, Stage, State
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.kit.user_ids import normalise_user_id
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.labels import format_credits
from creativeflow.services.aigeneration.web.console.page import render_console_page
from creativeflow.services.aigeneration.web.templating import create_page_router, redirect_to

PAGE_SIZE = 25
STATE_FILTERS = {
    "all": ("All", ()),
    "working": ("In progress", tuple(sorted(WITH_JOB))),
    "placing": ("Placing hold", (State.VALIDATING_CREDITS,)),
    "selection": ("Awaiting selection", (State.AWAITING_SELECTION,)),
    "completed": ("Completed", (State.COMPLETED,)),
    "failed": ("Failed or rejected", (State.FAILED, State.CONTENT_REJECTED)),
    "ended": (
        "Cancelled or expired",
        tuple(sorted(TERMINAL - {State.COMPLETED, State.FAILED, State.CONTENT_REJECTED})),
    ),
}
"""Filters by name: label and states."""
_COSTING = (HoldState.HELD, HoldState.CAPTURED)

Day = Annotated[str, Query(max_length=10)]

router = create_page_router("/console/requests")


@router.get("")
async def list_requests(
    request: Request,
    visitor: OperatorVisitor,
    q: Annotated[str, Query(max_length=200)] = "",
    show: Annotated[str, Query(max_length=20)] = "all",
    since: Day = "",
    until: Day = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Show one page of requests; the id of a request redirects to its page."""
    term, show = q.strip(), show if show in STATE_FILTERS else "all"
    if (request_id := _parse_id(term)) and await services_of(request).queries.request(request_id):
        return redirect_to(f"/console/requests/{request_id}")
    items = await _find(
        request,
        term,
        STATE_FILTERS[show][1],
        _parse_day(since),
        _parse_day(until),
        read_cursor(cursor),
    )
    parameters = {"q": term, "since": since, "until": until}
    search = {name: value for name, value in parameters.items() if value}
    return await render_console_page(
        request,
        visitor,
        "console/requests.html",
        items=items[:PAGE_SIZE],
        state_filters=STATE_FILTERS,
        show=show,
        search=search,
        is_first_page=cursor is None,
        older=write_cursor(items[PAGE_SIZE - 1].id) if len(items) > PAGE_SIZE else None,
        link=lambda **more: f"/console/requests?{urlencode(search | {'show': show} | more)}",
        format_cost=format_cost,
    )


async def _find(
    request: Request,
    term: str,
    states: tuple[State, ...],
    since: date | None,
    until: date | None,
    before: UUID | None,
) -> list[GenerationRequest]:
    """Find requests of the user named `term`, or else of the project."""
    common = {
        "states": states,
        "before": before,
        "created_from": _midnight(since),
        "created_to": _midnight(until + timedelta(days=1)) if until and until < date.max else None,
    }
    reads = services_of(request).queries
    if not term:
        return await reads.page(Filters(**common), PAGE_SIZE + 1)  # type: ignore[arg-type]
    name = normalise_user_id(term)
    if name is None:
        return []
    of_user = await reads.page(Filters(user_id=name, **common), PAGE_SIZE + 1)  # type: ignore[arg-type]
    return of_user or await reads.page(Filters(project_id=name, **common), PAGE_SIZE + 1)  # type: ignore[arg-type]


def format_cost(request: GenerationRequest) -> str:
    """Format the credits that a request has been charged or holds."""
    amount = sum(request.cost(stage, *_COSTING) for stage in Stage)
    return format_credits(amount) if amount else "no charge"


def _parse_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _parse_day(text: str) -> date | None:
    """Parse a date input; an invalid date does not filter."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _midnight(day: date | None) -> datetime | None:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None
