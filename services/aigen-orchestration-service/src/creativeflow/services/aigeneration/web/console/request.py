"""One request: its live timeline, credits, outbox messages, webhooks and available actions."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import ForceFailRequest
from creativeflow.services.aigeneration.api.schemas.generations import ReviewDecision as ReviewBody
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.webhook_endpoints import EndpointScope
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, Event, Stage, State
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.labels import format_credits
from creativeflow.services.aigeneration.web.console.page import (
    build_caller,
    render_console_page,
    run_action,
)
from creativeflow.services.aigeneration.web.console.requests import format_cost
from creativeflow.services.aigeneration.web.console.timeline import build_timeline, count_kinds
from creativeflow.services.aigeneration.web.error_pages import ErrorText
from creativeflow.services.aigeneration.web.forms import FormFields, build_claim, validate_form
from creativeflow.services.aigeneration.web.live import stream_request_changes
from creativeflow.services.aigeneration.web.studio.presenter import build_slots, format_price
from creativeflow.services.aigeneration.web.templating import create_page_router

LINES_MAX = 1000
_OUTBOX_MESSAGES_MAX = 50

router = create_page_router("/console/requests/{request_id}")


@router.get("")
async def show_request(request_id: UUID, request: Request, visitor: OperatorVisitor) -> Response:
    """Show the request."""
    return await _show(request, visitor, request_id)


@router.get("/stream")
async def stream_changes(request_id: UUID, request: Request, visitor: OperatorVisitor) -> Response:
    """Stream a signal whenever the request changes."""
    return stream_request_changes(request, visitor.session, await _get_request(request, request_id))


@router.post("/cancel")
async def cancel_request(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Cancel the request on behalf of its user."""

    async def act() -> bool:
        return (
            await services_of(request).generations.cancel(request_id, build_caller(visitor))
        ).acted

    return await _run(request, visitor, form, request_id, act, "cancelled")


@router.post("/fail")
async def fail_request(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Fail the request; the user sees the reason in the timeline, operators also the note."""

    async def act() -> object:
        fields = {"reason": form.get("reason"), "note": form.get("note") or None}
        body = validate_form(ForceFailRequest, fields)
        return await services_of(request).generations.force_fail(
            request_id, build_caller(visitor), body.reason, note=body.note
        )

    return await _run(request, visitor, form, request_id, act, "failed")


@router.post("/retry")
async def retry_request(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Create a new request with the same brief, charged to its user.

    Idempotent for one rendering of the page.
    """

    async def act() -> str:
        key = f"{request_id}:{form.get('key')}"
        reply = await services_of(request).generations.retry(
            request_id,
            build_caller(visitor, build_claim(request, visitor.principal, key, {})),
            {},
            correlation_id=request.scope["aigen.request_id"],
            traceparent=request.scope["aigen.traceparent"],
            quote_id=form.get("quote_id") or None,
        )
        return f"/console/requests/{reply_response(reply).headers['location'].rpartition('/')[2]}"

    return await _run(request, visitor, form, request_id, act, "retried")


@router.post("/review")
async def review_prompt(
    request_id: UUID, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Accept or reject a prompt in review."""
    decision = form.get("decision")

    async def act() -> object:
        body = validate_form(ReviewBody, {"decision": decision})
        if not (await _get_request(request, request_id)).in_review:
            return False
        accept = body.decision == "accept"
        return await services_of(request).generations.review(
            request_id, build_caller(visitor), accepted_=accept
        )

    return await _run(request, visitor, form, request_id, act, f"{decision}ed")


@router.post("/deliveries/{endpoint_id}/{event_id}/redeliver")
async def redeliver_event(
    request_id: UUID,
    endpoint_id: UUID,
    event_id: UUID,
    request: Request,
    visitor: OperatorVisitor,
    form: Form,
) -> Response:
    """Schedule another delivery of a webhook event."""

    async def act() -> None:
        endpoints = services_of(request).webhook_endpoints
        await endpoints.redeliver(
            EndpointScope(name=visitor.principal.identity, sees_all=True), endpoint_id, event_id
        )

    return await _run(request, visitor, form, request_id, act, "redelivered")


async def _run(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    request_id: UUID,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, refusal: ErrorText) -> Response:
        return await _show(request, visitor, request_id, status, refusal)

    return await run_action(
        request, form, show, act, done=done, fallback=f"/console/requests/{request_id}"
    )


async def _get_request(request: Request, request_id: UUID) -> GenerationRequest:
    found = await services_of(request).queries.request(request_id)
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
    found = await _get_request(request, request_id)
    accounting = services_of(request).accounting
    outbox = services_of(request).outbox
    statistics = services_of(request).statistics
    reads = services_of(request).queries
    # Before the timeline: a message delivered in between is shown as pending and the page
    # refreshes. The other way round it would be in neither list, and the page of a request that
    # has ended would stop refreshing.
    messages = await outbox.owed(_OUTBOX_MESSAGES_MAX, request_id)
    holds = await accounting.holds_of(request_id)
    lines = build_timeline(await reads.timeline(request_id, LINES_MAX), holds)
    position = await reads.queue_position(found)
    return await render_console_page(
        request,
        visitor,
        "console/request.html",
        status,
        refusal=refusal,
        generation=found,
        resource=to_resource(found, queue_position=position),
        lines=lines,
        kinds=count_kinds(lines),
        holds=holds,
        messages=messages,
        deliveries=await statistics.deliveries_of(request_id),
        slots=build_slots(found),
        cost=format_cost(found),
        actions=list_actions(found),
        credits_effect=describe_credits_effect(found),
        retry_quote=await _quote_retry(request, found),
        lines_max=LINES_MAX,
    )


async def _quote_retry(request: Request, found: GenerationRequest) -> dict[str, str]:
    """Quote a retry if one is possible; empty values while no price is available."""
    if "retry" not in list_actions(found):
        return {}
    try:
        quote = await services_of(request).generations.quote(found.user_id, found.brief)
    except errors.AigenError:
        return {"price": "", "quote_id": ""}
    return {"price": format_price(quote["items"][0]), "quote_id": quote["quote_id"]}


def list_actions(found: GenerationRequest) -> set[str]:
    """List the actions available to an operator, derived from the transition table."""
    live_actions = {"cancel": Event.CANCEL_REQUESTED, "fail": Event.OPERATOR_FAILED}
    actions = {name for name, event in live_actions.items() if (found.state, event) in TRANSITIONS}
    if found.terminal and found.state not in {State.COMPLETED, State.CONTENT_REJECTED}:
        actions.add("retry")
    if found.in_review:
        actions.add("review")
    return actions


def describe_credits_effect(found: GenerationRequest) -> str:
    """Describe what ending a request now does to its credits."""
    held = sum(found.cost(stage, HoldState.HELD, HoldState.PLACING) for stage in Stage)
    paid = sum(found.cost(stage, HoldState.CAPTURED) for stage in Stage)
    sentences = [
        f"{format_credits(held)} on hold will be released." if held else "No credits are on hold."
    ]
    if paid:
        sentences.append(f"{format_credits(paid)} already charged for deliveries stay charged.")
    return " ".join(sentences)
