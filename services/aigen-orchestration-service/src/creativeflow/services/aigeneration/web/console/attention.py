"""What needs a person: parked messages, holds in doubt, words to review, stuck requests, flagged
accounts.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import HoldKey, accounts, queries
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.runbook import FLAGS
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.outbox import Outbox
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.page import console_page, overview, run_action
from creativeflow.services.aigeneration.web.console.requests import cost
from creativeflow.services.aigeneration.web.error_pages import ErrorText
from creativeflow.services.aigeneration.web.forms import FormFields
from creativeflow.services.aigeneration.web.templating import pages_router

PATH = "/console/attention"
MOST = 50
GIVEN_UP_SINCE = timedelta(days=1)

MessageId = Annotated[int, Path(ge=1, le=2**62)]

router = pages_router("/console")


@router.get("/attention")
async def attention(request: Request, visitor: OperatorVisitor) -> Response:
    """Everything that waits for a person, each with what it means and what can be done."""
    return await _show(request, visitor)


@router.post("/outbox/{message_id}/replay")
async def replay(
    message_id: MessageId, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Try a parked message again."""
    outbox: Outbox = request.app.state.outbox

    async def act() -> bool:
        return await outbox.replay(
            message_id, by=visitor.principal.name, now=request.app.state.now()
        )

    return await _do(request, visitor, form, act, "replayed")


@router.post("/outbox/{message_id}/drop")
async def drop(
    message_id: MessageId, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Give a parked message up."""
    outbox: Outbox = request.app.state.outbox

    async def act() -> bool:
        return await outbox.drop(message_id, by=visitor.principal.name, now=request.app.state.now())

    return await _do(request, visitor, form, act, "dropped")


@router.post("/holds/{key}/decide")
async def decide(key: HoldKey, request: Request, visitor: OperatorVisitor, form: Form) -> Response:
    """Say what became of a hold in doubt."""

    async def act() -> int:
        said = form.get("charged")
        if said not in {"yes", "no"}:
            raise errors.InvalidRequestError.at(
                "/charged", "missing", "Say whether it was charged."
            )
        await accounts(request).decide(key, charged=said == "yes", by=visitor.principal.name)
        return 1

    return await _do(request, visitor, form, act, "decided")


async def _do(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, words: ErrorText) -> Response:
        return await _show(request, visitor, status, words)

    return await run_action(request, form, show, act, done=done, fallback=PATH)


async def _show(
    request: Request, visitor: Visitor, status: int = 200, refusal: ErrorText | None = None
) -> Response:
    state = request.app.state
    outbox: Outbox = state.outbox
    books: Accounting = state.books
    flags: AccountFlags = state.flags
    figures: Statistics = state.figures
    now = state.now()
    glance = await overview(request).glance()
    return await console_page(
        request,
        visitor,
        "console/attention.html",
        status,
        refusal=refusal,
        messages=await outbox.owed(MOST),
        holds=await books.parked_holds(MOST),
        stuck=await queries(request).stuck(now, MOST),
        reviews=await queries(request).in_review(MOST),
        flags=await flags.open_flags(MOST),
        flag_words=FLAGS,
        stalled=glance.queues["stalled"],
        given_up=await figures.given_up(now - GIVEN_UP_SINCE, MOST),
        cost=cost,
    )
