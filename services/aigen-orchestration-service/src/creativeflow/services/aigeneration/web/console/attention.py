"""The attention page: parked messages and holds, reviews, stuck requests and flagged accounts."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import HoldKey
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.runbook import FLAGS
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.page import (
    get_snapshots,
    render_console_page,
    run_action,
)
from creativeflow.services.aigeneration.web.console.requests import format_cost
from creativeflow.services.aigeneration.web.error_pages import ErrorText
from creativeflow.services.aigeneration.web.forms import FormFields
from creativeflow.services.aigeneration.web.templating import create_page_router

PATH = "/console/attention"
ITEMS_MAX = 50
FAILED_DELIVERIES_AGE = timedelta(days=1)

MessageId = Annotated[int, Path(ge=1, le=2**62)]

router = create_page_router("/console")


@router.get("/attention")
async def show_attention(request: Request, visitor: OperatorVisitor) -> Response:
    """Show everything that needs an operator, with its meaning and actions."""
    return await _show(request, visitor)


@router.post("/outbox/{message_id}/replay")
async def replay_message(
    message_id: MessageId, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Replay a parked message: it is due now, with its attempts reset."""
    outbox = services_of(request).outbox

    async def act() -> bool:
        return await outbox.replay(
            message_id, by=visitor.principal.identity, now=services_of(request).now()
        )

    return await _run(request, visitor, form, act, "replayed")


@router.post("/outbox/{message_id}/drop")
async def drop_message(
    message_id: MessageId, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Drop a parked message; it will never be delivered."""
    outbox = services_of(request).outbox

    async def act() -> bool:
        return await outbox.drop(
            message_id, by=visitor.principal.identity, now=services_of(request).now()
        )

    return await _run(request, visitor, form, act, "dropped")


@router.post("/holds/{key}/decide")
async def resolve_hold(
    key: HoldKey, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Record whether a parked hold was charged."""

    async def act() -> int:
        charged = form.get("charged")
        if charged not in {"yes", "no"}:
            raise errors.InvalidRequestError.at(
                "/charged", "missing", "Choose whether the hold was charged."
            )
        await services_of(request).accounts.decide(
            key, charged=charged == "yes", by=visitor.principal.identity
        )
        return 1

    return await _run(request, visitor, form, act, "decided")


async def _run(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, refusal: ErrorText) -> Response:
        return await _show(request, visitor, status, refusal)

    return await run_action(request, form, show, act, done=done, fallback=PATH)


async def _show(
    request: Request, visitor: Visitor, status: int = 200, refusal: ErrorText | None = None
) -> Response:
    services = services_of(request)
    outbox = services.outbox
    accounting = services.accounting
    flags = services.account_flags
    statistics = services.statistics
    now = services.now()
    snapshot = await get_snapshots(request).snapshot()
    return await render_console_page(
        request,
        visitor,
        "console/attention.html",
        status,
        refusal=refusal,
        messages=await outbox.owed(ITEMS_MAX),
        holds=await accounting.parked_holds(ITEMS_MAX),
        stuck=await services_of(request).queries.stuck(now, ITEMS_MAX),
        reviews=await services_of(request).queries.in_review(ITEMS_MAX),
        flags=await flags.open_flags(ITEMS_MAX),
        flag_explanations=FLAGS,
        stalled=snapshot.queues["stalled"],
        failed_deliveries=await statistics.given_up(now - FAILED_DELIVERIES_AGE, ITEMS_MAX),
        format_cost=format_cost,
    )
