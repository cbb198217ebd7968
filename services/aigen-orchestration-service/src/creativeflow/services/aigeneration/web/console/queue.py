"""The queue page: depth by lane and user in dispatch order, and the broker's queues."""

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.pricing import PLANS
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.page import get_snapshots, render_console_page
from creativeflow.services.aigeneration.web.templating import create_page_router

USERS_MAX = 100

router = create_page_router("/console")


@router.get("/queue")
async def show_queue(request: Request, visitor: OperatorVisitor) -> Response:
    """Show queued and in-flight jobs by lane and user."""
    statistics = services_of(request).statistics
    return await render_console_page(
        request,
        visitor,
        "console/queue.html",
        snapshot=await get_snapshots(request).snapshot(),
        users=await statistics.queue_by_user(USERS_MAX),
        plans=PLANS,
        policy=services_of(request).policy,
        window=services_of(request).settings.lane_window,
    )
