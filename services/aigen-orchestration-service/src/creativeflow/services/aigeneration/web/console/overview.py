"""The console's first page, the queue and the invariants: how the service does now, as its own
figures tell it.
"""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response, StreamingResponse

from creativeflow.services.aigeneration.api.dependencies import queries
from creativeflow.services.aigeneration.domain.pricing import PLANS
from creativeflow.services.aigeneration.domain.runbook import INVARIANTS
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.charts import bars, lines
from creativeflow.services.aigeneration.web.console.last_hour import LastHour, waits
from creativeflow.services.aigeneration.web.console.page import console_page, overview
from creativeflow.services.aigeneration.web.console.snapshot import COUNT_DAYS
from creativeflow.services.aigeneration.web.live import while_signed_in
from creativeflow.services.aigeneration.web.templating import pages_router

USERS_SHOWN = 100

router = pages_router("/console")


@router.get("")
async def now(request: Request, visitor: OperatorVisitor) -> Response:
    """What the last hour brought, what stands open, and whether all is well."""
    glance = await overview(request).glance()
    return await console_page(
        request,
        visitor,
        "console/now.html",
        glance=glance,
        hour=glance.hour,
        charts=_charts(glance.hour),
        counts=await overview(request).counts(),
    )


@router.get("/stream")
async def stream(request: Request, visitor: OperatorVisitor) -> Response:
    """That something has happened, for as long as the session lasts."""
    pulse = overview(request).pulse
    pulse.check_room()
    body = while_signed_in(pulse.beats(), request.app.state.sessions, visitor.session)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@router.get("/queue")
async def queue(request: Request, visitor: OperatorVisitor) -> Response:
    """Who waits, in which order, and what the broker has."""
    figures: Statistics = request.app.state.figures
    glance = await overview(request).glance()
    return await console_page(
        request,
        visitor,
        "console/queue.html",
        glance=glance,
        users=await figures.queue_by_user(USERS_SHOWN),
        plans=PLANS,
        policy=request.app.state.policy,
        window=request.app.state.settings.lane_window,
    )


@router.get("/invariants")
async def invariants(
    request: Request,
    visitor: OperatorVisitor,
    days: Annotated[int, Query(ge=1, le=10_000)] = COUNT_DAYS,
) -> Response:
    """What must never be, counted now."""
    return await console_page(
        request,
        visitor,
        "console/invariants.html",
        counts=await overview(request).count(days),
        meanings=INVARIANTS,
        days=days,
        revision=await queries(request).revision(),
    )


def _charts(hour: LastHour) -> dict[str, object]:
    minutes = hour.minutes
    found: dict[str, object] = {
        name: bars([getattr(minute, name) for minute in minutes])
        for name in ("accepted", "samples", "finals")
    }
    found["failed"] = bars(
        [minute.failed for minute in minutes], [minute.failed_attempts for minute in minutes]
    )
    for name in ("samples_waits", "final_waits"):
        known = [waits(getattr(minute, name)) for minute in minutes]
        found[name] = lines([each.p50 for each in known], [each.p95 for each in known])
    return found
