"""Webhook targets over HTTP: registering, steering and trying them out, and their delivery log."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import Principal, ServiceCaller
from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import webhook_endpoints as schemas
from creativeflow.services.aigeneration.application.webhook_endpoints import Ownership, Targets
from creativeflow.services.aigeneration.domain.request import iso
from creativeflow.services.aigeneration.domain.webhooks import DeliveryState
from creativeflow.services.aigeneration.storage.webhook_endpoints import Target

PAGE_MAX = 100

router = APIRouter(
    prefix="/api/v1/webhook-targets",
    tags=["webhook targets"],
    route_class=JsonRoute,
    responses=problems(401, 403, 503),
)


@router.post(
    "",
    status_code=201,
    response_model=schemas.TargetWithSecret,
    responses=problems(409, 422),
    summary="Register an address for events",
)
async def register(body: schemas.NewTarget, request: Request, caller: ServiceCaller) -> Response:
    """Events of the requests which this caller makes from now on are sent there. An address is registered once."""
    target = await _targets(request).register(_whose(caller), body.url, body.secret, body.description)
    return json_response(_shown(target) | {"secret": target.secret}, 201, {"Location": f"{router.prefix}/{target.id}"})


@router.get("", response_model=schemas.TargetList, summary="List targets")
async def list_targets(request: Request, caller: ServiceCaller) -> Response:
    """A service sees its own, an operator all. Secrets are never shown."""
    return json_response({"items": [_shown(target) for target in await _targets(request).page(_whose(caller))]})


@router.get("/{target_id}", response_model=schemas.TargetOut, responses=problems(404), summary="One target")
async def get_target(target_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """Where it leads, and whether it is sent to."""
    return json_response(_shown(await _targets(request).one(_whose(caller), target_id)))


@router.delete("/{target_id}", status_code=204, responses=problems(404), summary="Remove a target")
async def delete_target(target_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """What was to be sent to it is not sent any more."""
    await _targets(request).delete(_whose(caller), target_id)
    return Response(status_code=204)


@router.post(
    "/{target_id}/enable", response_model=schemas.TargetOut, responses=problems(404), summary="Send to it again"
)
async def enable(target_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """From now on; what was given up meanwhile can be sent again one by one."""
    return json_response(_shown(await _targets(request).enable(_whose(caller), target_id)))


@router.post(
    "/{target_id}/disable", response_model=schemas.TargetOut, responses=problems(404), summary="Send nothing to it"
)
async def disable(target_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """Events stop, and what was still to be sent is given up."""
    return json_response(_shown(await _targets(request).disable(_whose(caller), target_id)))


@router.post(
    "/{target_id}/rotate-secret",
    response_model=schemas.TargetWithSecret,
    responses=problems(404, 422),
    summary="Sign with another secret",
)
async def rotate_secret(
    target_id: UUID, request: Request, caller: ServiceCaller, body: schemas.NewSecret | None = None
) -> Response:
    """For 24 hours the old secret signs beside the new one, so that receivers can change over."""
    target = await _targets(request).rotate(_whose(caller), target_id, body.secret if body else None)
    return json_response(_shown(target) | {"secret": target.secret})


@router.post(
    "/{target_id}/test",
    status_code=202,
    response_model=schemas.EventOwed,
    responses=problems(404, 409),
    summary="Send it a test event",
)
async def test(target_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """A `webhook.test` event goes the way of all others; the log has what came of it."""
    return json_response({"event_id": await _targets(request).test(_whose(caller), target_id)}, 202)


@router.get(
    "/{target_id}/deliveries",
    response_model=schemas.DeliveryList,
    responses=problems(404, 422),
    summary="What became of its events",
)
async def deliveries(
    target_id: UUID,
    request: Request,
    caller: ServiceCaller,
    status: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> Response:
    """The newest first."""
    found = await _targets(request).deliveries(_whose(caller), target_id, state=status, most=limit)
    return json_response({"items": [_delivery(row) for row in found]})


@router.post(
    "/{target_id}/deliveries/{event_id}/redeliver",
    status_code=202,
    response_model=schemas.EventOwed,
    responses=problems(404, 409),
    summary="Send an event again",
)
async def redeliver(target_id: UUID, event_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """At once, with the same id and body, whether it was delivered before or given up."""
    await _targets(request).redeliver(_whose(caller), target_id, event_id)
    return json_response({"event_id": event_id}, 202)


def _targets(request: Request) -> Targets:
    found: Targets = request.app.state.targets
    return found


def _whose(caller: Principal) -> Ownership:
    return Ownership(name=caller.name, sees_all=caller.operator)


def _shown(target: Target) -> dict[str, Any]:
    return {
        "id": str(target.id), "owner": target.owner, "url": target.url, "description": target.description,
        "state": target.state, "disabled_reason": target.disabled_reason, "failing_since": iso(target.failing_since),
        "created_at": iso(target.created_at), "updated_at": iso(target.updated_at),
    }  # fmt: skip


def _delivery(row: dict[str, Any]) -> dict[str, Any]:
    times = ("next_attempt_at", "created_at", "updated_at", "delivered_at")
    shown = {name: value for name, value in row.items() if name not in {"state", *times}}
    return shown | {"status": row["state"]} | {name: iso(row[name]) for name in times}
