"""All requests in a table: found by id, user or project, narrowed by state and time, page by
page.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import queries
from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL, WITH_JOB, Stage, State
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.labels import credits_words
from creativeflow.services.aigeneration.web.console.page import console_page
from creativeflow.services.aigeneration.web.templating import pages_router, see_other

PER_PAGE = 25
SHOWN = {
    "all": ("All", ()),
    "working": ("At work", tuple(sorted(WITH_JOB))),
    "asking": ("Before the queue", (State.VALIDATING_CREDITS,)),
    "picking": ("The user picks", (State.AWAITING_SELECTION,)),
    "completed": ("Completed", (State.COMPLETED,)),
    "failed": ("Failed or rejected", (State.FAILED, State.CONTENT_REJECTED)),
    "ended": (
        "Cancelled or expired",
        tuple(sorted(TERMINAL - {State.COMPLETED, State.FAILED, State.CONTENT_REJECTED})),
    ),
}
"""What can be shown: its label and its states."""
_KEPT = (HoldState.HELD, HoldState.CAPTURED)

Day = Annotated[str, Query(max_length=10)]

router = pages_router("/console/requests")


@router.get("")
async def requests(
    request: Request,
    visitor: OperatorVisitor,
    q: Annotated[str, Query(max_length=200)] = "",
    show: Annotated[str, Query(max_length=20)] = "all",
    since: Day = "",
    until: Day = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """One page of them; an id leads to its request."""
    wanted, show = q.strip(), show if show in SHOWN else "all"
    if (found_id := _id(wanted)) and await queries(request).request(found_id):
        return see_other(f"/console/requests/{found_id}")
    items = await _find(
        request, wanted, SHOWN[show][1], _day(since), _day(until), read_cursor(cursor)
    )
    said = {
        name: value
        for name, value in {"q": wanted, "since": since, "until": until}.items()
        if value
    }
    return await console_page(
        request,
        visitor,
        "console/requests.html",
        items=items[:PER_PAGE],
        shown=SHOWN,
        show=show,
        said=said,
        first=cursor is None,
        older=write_cursor(items[PER_PAGE - 1].id) if len(items) > PER_PAGE else None,
        link=lambda **more: f"/console/requests?{urlencode(said | {'show': show} | more)}",
        cost=cost,
    )


async def _find(
    request: Request,
    wanted: str,
    states: tuple[State, ...],
    since: date | None,
    until: date | None,
    before: UUID | None,
) -> list[GenerationRequest]:
    """Those of a user of this name, else those of a project."""
    common = {
        "states": states,
        "before": before,
        "created_from": _midnight(since),
        "created_to": _midnight(until + timedelta(days=1)) if until else None,
    }
    reads = queries(request)
    if not wanted:
        return await reads.page(Filters(**common), PER_PAGE + 1)  # type: ignore[arg-type]
    of_user = await reads.page(Filters(user_id=wanted, **common), PER_PAGE + 1)  # type: ignore[arg-type]
    return of_user or await reads.page(Filters(project_id=wanted, **common), PER_PAGE + 1)  # type: ignore[arg-type]


def cost(request: GenerationRequest) -> str:
    """What a request has cost so far, or has set aside."""
    amount = sum(request.cost(stage, *_KEPT) for stage in Stage)
    return credits_words(amount) if amount else "nothing"


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _day(text: str) -> date | None:
    """A day as a form sends it; what is none narrows nothing."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _midnight(day: date | None) -> datetime | None:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None
