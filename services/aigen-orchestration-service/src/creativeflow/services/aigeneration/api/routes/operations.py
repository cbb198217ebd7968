"""Operator endpoints of requests: stuck requests, outbox, reviews, queues, invariants."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import OPERATORS_ONLY, Operator
from creativeflow.services.aigeneration.api.dependencies import (
    KEYED_AND_MATCHED,
    build_caller,
    queues_now,
)
from creativeflow.services.aigeneration.api.responses import json_response, reply_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.representation import to_resource

router = APIRouter(
    prefix="/api/v1/operations",
    tags=["operations"],
    route_class=JsonRoute,
    responses=problems(401, 403),
    dependencies=[OPERATORS_ONLY],
)

MessageId = Annotated[int, Path(ge=1, le=2**62)]
Most = Annotated[int, Query(ge=1, le=500)]


@router.get("/stuck", summary="List stuck generation requests")
async def list_stuck_generations(request: Request, limit: Most = 100) -> Response:
    """Return requests whose deadline or lease passed more than a minute ago: normally none."""
    found = await services_of(request).queries.stuck(services_of(request).now(), limit)
    return json_response({"items": [to_resource(item) for item in found]})


@router.get("/outbox", summary="List outbox messages")
async def list_outbox_messages(
    request: Request, parked: bool = True, limit: Most = 100
) -> Response:
    """Return parked messages with their reason, or all open ones."""
    outbox = services_of(request).outbox
    return json_response({"items": await outbox.list_open(parked_only=parked, most=limit)})


@router.post(
    "/outbox/{message_id}/replay", responses=problems(404), summary="Replay a parked outbox message"
)
async def replay_outbox_message(
    message_id: MessageId, request: Request, operator: Operator
) -> Response:
    """Make a parked message due at once; the operator is recorded in the timeline."""
    outbox = services_of(request).outbox
    if not await outbox.replay(message_id, by=operator.identity, now=services_of(request).now()):
        raise errors.NotFoundError
    return json_response({"status": "due"})


@router.post(
    "/outbox/{message_id}/drop", responses=problems(404), summary="Drop a parked outbox message"
)
async def drop_outbox_message(
    message_id: MessageId, request: Request, operator: Operator
) -> Response:
    """Delete a parked message; the operator is recorded in the timeline."""
    outbox = services_of(request).outbox
    if not await outbox.drop(message_id, by=operator.identity, now=services_of(request).now()):
        raise errors.NotFoundError
    return json_response({"status": "dropped"})


@router.post(
    "/generation-requests/{request_id}/fail",
    response_model=schemas.GenerationRequest,
    responses=problems(404, 409, 412, 422),
    openapi_extra=KEYED_AND_MATCHED,
    summary="End a live generation request",
)
async def fail_generation(
    request_id: UUID, body: schemas.ForceFailRequest, request: Request, operator: Operator
) -> Response:
    """End a request as FAILED: its hold is released, the user notified, and the timeline names the
    operator, to operators only.
    """
    caller = build_caller(request, operator, body)
    return reply_response(
        await services_of(request).generations.force_fail(
            request_id, caller, body.reason, note=body.note
        )
    )


@router.get("/reviews", summary="List prompts in review")
async def list_reviews(request: Request, limit: Most = 100) -> Response:
    """Return requests whose prompt waits for a review, oldest first. Nothing is charged yet."""
    found = await services_of(request).queries.in_review(limit)
    return json_response({"items": [to_resource(item) for item in found]})


@router.post(
    "/generation-requests/{request_id}/review",
    response_model=schemas.GenerationRequest,
    responses=problems(404, 422, 503),
    summary="Accept or reject a prompt",
)
async def review_generation(
    request_id: UUID, body: schemas.ReviewDecision, request: Request, operator: Operator
) -> Response:
    """Accept the prompt, so that the request continues and is charged as usual, or reject it
    uncharged.

    A request that is not in review is left unchanged.
    """
    caller = Caller(name=operator.identity)
    reviewed = await services_of(request).generations.review(
        request_id, caller, accepted_=body.decision == "accept"
    )
    return json_response(to_resource(reviewed))


@router.get("/queues", summary="Get queue depths")
async def get_queues(request: Request) -> Response:
    """Return the fair queue by lane, the broker queues, the outbox, and stalled lanes."""
    return json_response(await queues_now(services_of(request)))


@router.get("/invariants", summary="Get invariants")
async def get_invariants(
    request: Request, days: Annotated[int, Query(ge=1, le=10_000)] = 31
) -> Response:
    """Return counts that must be 0; docs/operations.md explains each.

    Ended requests are counted for the last `days`, open ones always.
    """
    now = services_of(request).now()
    counts = await services_of(request).invariants.count(now, now - timedelta(days=days))
    return json_response({"counts": counts})
