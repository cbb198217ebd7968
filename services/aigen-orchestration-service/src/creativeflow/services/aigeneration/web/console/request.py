"""One request for an operator: its one timeline, live, its money and messages, and what can be done
about it now.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import orchestrator, queries
from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import ForceFailRequest
from creativeflow.services.aigeneration.api.schemas.generations import ReviewDecision as ReviewBody
from creativeflow.services.aigeneration.application.webhook_endpoints import (
    EndpointScope,
    WebhookEndpointService,
)
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, Event, Stage, State
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.outbox import Outbox
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.labels import credits_words
from creativeflow.services.aigeneration.web.console.page import caller, console_page, run_action
from creativeflow.services.aigeneration.web.console.requests import cost
from creativeflow.services.aigeneration.web.console.timeline import kinds, lines
from creativeflow.services.aigeneration.web.error_pages import ErrorText
from creativeflow.services.aigeneration.web.forms import FormFields, checked, claim
from creativeflow.services.aigeneration.web.live import changes
from creativeflow.services.aigeneration.web.studio.presenter import price, slots
from creativeflow.services.aigeneration.web.templating import pages_router

LINES_MAX = 1000
_OUTBOX_MESSAGES_MAX = 50

router = pages_router("/console/requests/{request_id}")


@router.get("")
async def look(request_id: UUID, request: Request, visitor: OperatorVisitor) -> Response:
    """Everything that is known of it."""
    return await _show(request, visitor, request_id)


@router.get("/stream")
async def stream(request_id: UUID, request: Request, visitor: OperatorVisitor) -> Response:
    """That it has changed, as it changes."""
    return changes(request, visitor.session, await _found(request, request_id))


@router.post("/cancel")
async def cancel(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """End it as its user could."""

    async def act() -> bool:
        return (await orchestrator(request).cancel(request_id, caller(visitor))).acted

    return await _do(request, visitor, form, request_id, act, "cancelled")


@router.post("/fail")
async def fail(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """End it as failed, for a reason that stands in the timeline."""

    async def act() -> object:
        body = checked(ForceFailRequest, {"reason": form.get("reason")})
        return await orchestrator(request).force_fail(request_id, caller(visitor), body.reason)

    return await _do(request, visitor, form, request_id, act, "failed")


@router.post("/retry")
async def retry(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """The same again as a new request, which its user pays."""

    async def act() -> str:
        key = f"{request_id}:{form.get('key')}"
        reply = await orchestrator(request).retry(
            request_id,
            caller(visitor, claim(request, visitor.principal, key, {})),
            {},
            correlation_id=request.scope["aigen.request_id"],
            traceparent=request.scope["aigen.traceparent"],
            quote_id=form.get("quote_id") or None,
        )
        return f"/console/requests/{reply_response(reply).headers['location'].rpartition('/')[2]}"

    return await _do(request, visitor, form, request_id, act, "retried")


@router.post("/review")
async def review(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Accept or reject the words."""
    decision = form.get("decision")

    async def act() -> object:
        body = checked(ReviewBody, {"decision": decision})
        if not (await _found(request, request_id)).in_review:
            return False
        accept = body.decision == "accept"
        return await orchestrator(request).review(request_id, caller(visitor), accepted_=accept)

    return await _do(request, visitor, form, request_id, act, f"{decision}ed")


@router.post("/deliveries/{endpoint_id}/{event_id}/redeliver")
async def redeliver(
    request_id: UUID,
    endpoint_id: UUID,
    event_id: UUID,
    request: Request,
    visitor: OperatorVisitor,
    form: Form,
) -> Response:
    """Send a webhook event again."""

    async def act() -> None:
        endpoints: WebhookEndpointService = request.app.state.endpoints
        await endpoints.redeliver(
            EndpointScope(name=visitor.principal.name, sees_all=True), endpoint_id, event_id
        )

    return await _do(request, visitor, form, request_id, act, "redelivered")


async def _do(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    request_id: UUID,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, words: ErrorText) -> Response:
        return await _show(request, visitor, request_id, status, words)

    return await run_action(
        request, form, show, act, done=done, fallback=f"/console/requests/{request_id}"
    )


async def _found(request: Request, request_id: UUID) -> GenerationRequest:
    found = await queries(request).request(request_id)
    if found is None:
        raise errors.NotFoundError
    return found


async def _show(
    request: Request,
    visitor: Visitor,
    request_id: UUID,
    status: int = 200,
    refusal: ErrorText | None = None,
) -> Response:
    found = await _found(request, request_id)
    books: Accounting = request.app.state.books
    outbox: Outbox = request.app.state.outbox
    figures: Statistics = request.app.state.figures
    reads = queries(request)
    # Before the timeline: a message paid in between is shown as owed and the page looks again. The
    # other way round it would be in neither, and the page of a request that has ended would rest.
    messages = await outbox.owed(_OUTBOX_MESSAGES_MAX, request_id)
    holds = await books.holds_of(request_id)
    told = lines(await reads.timeline(request_id, LINES_MAX), holds)
    position = await reads.queue_position(found)
    return await console_page(
        request,
        visitor,
        "console/request.html",
        status,
        refusal=refusal,
        it=found,
        seen=to_resource(found, queue_position=position),
        lines=told,
        kinds=kinds(told),
        holds=holds,
        messages=messages,
        deliveries=await figures.deliveries_of(request_id),
        slots=slots(found),
        cost=cost(found),
        can=possible(found),
        money=released(found),
        again=await _again(request, found),
        lines_max=LINES_MAX,
    )


async def _again(request: Request, found: GenerationRequest) -> dict[str, str]:
    """What a retry would cost its user, where there can be one."""
    if "retry" not in possible(found):
        return {}
    try:
        quote = await orchestrator(request).quote(found.user_id, found.brief)
    except errors.AigenError:
        return {"price": "", "quote_id": ""}
    return {"price": price(quote["items"][0]), "quote_id": quote["quote_id"]}


def possible(found: GenerationRequest) -> set[str]:
    """What an operator can do with a request now; it comes from the table of moves."""
    live = {"cancel": Event.CANCEL_REQUESTED, "fail": Event.OPERATOR_FAILED}
    can = {name for name, event in live.items() if (found.state, event) in TRANSITIONS}
    if found.terminal and found.state not in {State.COMPLETED, State.CONTENT_REJECTED}:
        can.add("retry")
    if found.in_review:
        can.add("review")
    return can


def released(found: GenerationRequest) -> str:
    """What ending a request now does to its money."""
    held = sum(found.cost(stage, HoldState.HELD, HoldState.PLACING) for stage in Stage)
    paid = sum(found.cost(stage, HoldState.CAPTURED) for stage in Stage)
    said = [
        f"{credits_words(held)} that are set aside go back to the user."
        if held
        else "Nothing is set aside."
    ]
    if paid:
        said.append(f"{credits_words(paid)} stay charged for what was delivered.")
    return " ".join(said)
