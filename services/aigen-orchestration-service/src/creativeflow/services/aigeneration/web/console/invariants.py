"""The invariants page: each count with its meaning and what to do, checked on request."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.domain.runbook import INVARIANTS
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.page import get_snapshots, render_console_page
from creativeflow.services.aigeneration.web.console.snapshot import INVARIANT_DAYS
from creativeflow.services.aigeneration.web.templating import create_page_router

router = create_page_router("/console")


@router.get("/invariants")
async def show_invariants(
    request: Request,
    visitor: OperatorVisitor,
    days: Annotated[int, Query(ge=1, le=10_000)] = INVARIANT_DAYS,
) -> Response:
    """Check the invariants now, over requests that ended within `days`, and show the counts."""
    return await render_console_page(
        request,
        visitor,
        "console/invariants.html",
        invariants=await get_snapshots(request).check_invariants(days),
        explanations=INVARIANTS,
        days=days,
    )
