"""What an operator sees and does about work: stuck and parked, replay, force-fail, queues,
invariants.
"""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import OPERATORS_ONLY, Operator
from creativeflow.services.aigeneration.api.dependencies import (
    KEYED_AND_MATCHED,
    build_caller,
    orchestrator,
    queries,
    queues_now,
)
from creativeflow.services.aigeneration.api.responses import json_response, reply_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.storage.outbox import Outbox

router = APIRouter(
    prefix="/api/v1/operations",
    tags=["operations"],
    route_class=JsonRoute,
    responses=problems(401, 403),
    dependencies=[OPERATORS_ONLY],
)

MessageId = Annotated[int, Path(ge=1, le=2**62)]
Most = Annotated[int, Query(ge=1, le=500)]


@router.get("/stuck", summary="Requests that nobody has moved on")
async def stuck(request: Request, limit: Most = 100) -> Response:
    """Deadline or lease passed more than a minute ago: normally none."""
    found = await queries(request).stuck(request.app.state.now(), limit)
    return json_response({"items": [to_resource(item) for item in found]})


@router.get("/outbox", summary="What is owed")
async def messages(request: Request, parked: bool = True, limit: Most = 100) -> Response:
    """Parked messages with their reason, or all open ones."""
    outbox: Outbox = request.app.state.outbox
    return json_response({"items": await outbox.list_open(parked_only=parked, most=limit)})


@router.post(
    "/outbox/{message_id}/replay", responses=problems(404), summary="Try a parked message again"
)
async def replay(message_id: MessageId, request: Request, operator: Operator) -> Response:
    """It becomes due at once; who did it stands in the timeline."""
    outbox: Outbox = request.app.state.outbox
    if not await outbox.replay(message_id, by=operator.name, now=request.app.state.now()):
        raise errors.NotFoundError
    return json_response({"status": "due"})


@router.post(
    "/outbox/{message_id}/drop", responses=problems(404), summary="Give a parked message up"
)
async def drop(message_id: MessageId, request: Request, operator: Operator) -> Response:
    """It is deleted for good; who did it stands in the timeline."""
    outbox: Outbox = request.app.state.outbox
    if not await outbox.drop(message_id, by=operator.name, now=request.app.state.now()):
        raise errors.NotFoundError
    return json_response({"status": "dropped"})


@router.post(
    "/generation-requests/{request_id}/fail",
    response_model=schemas.GenerationRequest,
    responses=problems(404, 409, 412, 422),
    openapi_extra=KEYED_AND_MATCHED,
    summary="End a live request",
)
async def fail(
    request_id: UUID, body: schemas.ForceFailRequest, request: Request, operator: Operator
) -> Response:
    """FAILED, what is held is given back, the user is told; who did it stands in the timeline."""
    caller = build_caller(request, operator, body)
    return reply_response(await orchestrator(request).force_fail(request_id, caller, body.reason))


@router.get("/reviews", summary="Prompts that wait for a person")
async def reviews(request: Request, limit: Most = 100) -> Response:
    """Requests whose words the content check left to a person, the oldest first. Nothing is charged
    yet.
    """
    found = await queries(request).in_review(limit)
    return json_response({"items": [to_resource(item) for item in found]})


@router.post(
    "/generation-requests/{request_id}/review",
    response_model=schemas.GenerationRequest,
    responses=problems(404, 422, 503),
    summary="Accept or reject a prompt",
)
async def review(
    request_id: UUID, body: schemas.ReviewDecision, request: Request, operator: Operator
) -> Response:
    """Accepted: it goes on and is charged as ever. Rejected: CONTENT_REJECTED, nothing is charged.
    Again: nothing happens.
    """
    caller = Caller(name=operator.name)
    reviewed = await orchestrator(request).review(
        request_id, caller, accepted_=body.decision == "accept"
    )
    return json_response(to_resource(reviewed))


@router.get("/queues", summary="How much waits, and where")
async def queues(request: Request) -> Response:
    """The fair queue by lane, the broker's queues, the messages, and where workers have gone
    silent.
    """
    return json_response(await queues_now(request.app.state))


@router.get("/invariants", summary="Counts that must be 0")
async def invariants(
    request: Request, days: Annotated[int, Query(ge=1, le=10_000)] = 31
) -> Response:
    """Every count is of something that must never be; docs/operations.md says what each one means.

    What has ended is looked at for so many days back: it never changes again. What is open is
    always looked at.
    """
    now = request.app.state.now()
    return json_response(
        {"counts": await queries(request).invariants(now, now - timedelta(days=days))}
    )
