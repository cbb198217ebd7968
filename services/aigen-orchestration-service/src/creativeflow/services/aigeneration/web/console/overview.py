"""The console's first page: throughput, latency, health and open work of the last hour."""

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.charts import Chart, build_bars, build_lines
from creativeflow.services.aigeneration.web.console.last_hour import LastHour, compute_latency
from creativeflow.services.aigeneration.web.console.page import get_snapshots, render_console_page
from creativeflow.services.aigeneration.web.live import end_with_session
from creativeflow.services.aigeneration.web.services import web_services_of
from creativeflow.services.aigeneration.web.templating import create_page_router

router = create_page_router("/console")


@router.get("")
async def show_overview(request: Request, visitor: OperatorVisitor) -> Response:
    """Show the last hour, open work and health."""
    snapshot = await get_snapshots(request).snapshot()
    return await render_console_page(
        request,
        visitor,
        "console/overview.html",
        snapshot=snapshot,
        hour=snapshot.hour,
        charts=_build_charts(snapshot.hour),
        invariants=await get_snapshots(request).get_invariants(),
    )


@router.get("/stream")
async def stream_changes(request: Request, visitor: OperatorVisitor) -> Response:
    """Stream a signal whenever anything has changed, until the session ends."""
    feed = get_snapshots(request).change_feed
    feed.check_capacity()
    body = end_with_session(feed.subscribe(), web_services_of(request).sessions, visitor.session)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _build_charts(hour: LastHour) -> dict[str, Chart]:
    minutes = hour.minutes
    charts = {
        name: build_bars([getattr(minute, name) for minute in minutes])
        for name in ("accepted", "samples", "finals")
    }
    charts["failed"] = build_bars(
        [minute.failed for minute in minutes], [minute.failed_attempts for minute in minutes]
    )
    for name in ("samples_waits", "final_waits"):
        latencies = [compute_latency(getattr(minute, name)) for minute in minutes]
        charts[name] = build_lines(
            [latency.p50 for latency in latencies], [latency.p95 for latency in latencies]
        )
    return charts
