"""Webhook endpoints over HTTP: registering, steering and trying them out, and their delivery
log.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import Principal, ServiceCaller
from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import webhook_endpoints as schemas
from creativeflow.services.aigeneration.application.webhook_endpoints import (
    EndpointScope,
    WebhookEndpointService,
)
from creativeflow.services.aigeneration.domain.request import iso
from creativeflow.services.aigeneration.domain.webhooks import DeliveryState
from creativeflow.services.aigeneration.storage.webhook_endpoints import WebhookEndpoint

PAGE_MAX = 100

router = APIRouter(
    prefix="/api/v1/webhook-endpoints",
    tags=["webhook endpoints"],
    route_class=JsonRoute,
    responses=problems(401, 403, 503),
)


@router.post(
    "",
    status_code=201,
    response_model=schemas.WebhookEndpointWithSecret,
    responses=problems(409, 422),
    summary="Register an address for events",
)
async def register(
    body: schemas.WebhookEndpointCreate, request: Request, caller: ServiceCaller
) -> Response:
    """Events of the requests which this caller makes from now on are sent there. An address is
    registered once.
    """
    endpoint = await _endpoints(request).register(
        _whose(caller), body.url, body.secret, body.description
    )
    return json_response(
        _shown(endpoint) | {"secret": endpoint.secret},
        201,
        {"Location": f"{router.prefix}/{endpoint.id}"},
    )


@router.get("", response_model=schemas.WebhookEndpointList, summary="List endpoints")
async def list_endpoints(request: Request, caller: ServiceCaller) -> Response:
    """A service sees its own, an operator all. Secrets are never shown."""
    return json_response(
        {"items": [_shown(endpoint) for endpoint in await _endpoints(request).page(_whose(caller))]}
    )


@router.get(
    "/{endpoint_id}",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="One endpoint",
)
async def get_endpoint(endpoint_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """Where it leads, and whether it is sent to."""
    return json_response(_shown(await _endpoints(request).one(_whose(caller), endpoint_id)))


@router.delete(
    "/{endpoint_id}", status_code=204, responses=problems(404), summary="Remove a endpoint"
)
async def delete_endpoint(endpoint_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """What was to be sent to it is not sent any more."""
    await _endpoints(request).delete(_whose(caller), endpoint_id)
    return Response(status_code=204)


@router.post(
    "/{endpoint_id}/enable",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="Send to it again",
)
async def enable(endpoint_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """From now on; what was given up meanwhile can be sent again one by one."""
    return json_response(_shown(await _endpoints(request).enable(_whose(caller), endpoint_id)))


@router.post(
    "/{endpoint_id}/disable",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="Send nothing to it",
)
async def disable(endpoint_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """Events stop, and what was still to be sent is given up."""
    return json_response(_shown(await _endpoints(request).disable(_whose(caller), endpoint_id)))


@router.post(
    "/{endpoint_id}/rotate-secret",
    response_model=schemas.WebhookEndpointWithSecret,
    responses=problems(404, 422),
    summary="Sign with another secret",
)
async def rotate_secret(
    endpoint_id: UUID,
    request: Request,
    caller: ServiceCaller,
    body: schemas.SecretRotate | None = None,
) -> Response:
    """For 24 hours the old secret signs beside the new one, so that receivers can change over."""
    endpoint = await _endpoints(request).rotate(
        _whose(caller), endpoint_id, body.secret if body else None
    )
    return json_response(_shown(endpoint) | {"secret": endpoint.secret})


@router.post(
    "/{endpoint_id}/test",
    status_code=202,
    response_model=schemas.DeliveryScheduled,
    responses=problems(404, 409),
    summary="Send it a test event",
)
async def test(endpoint_id: UUID, request: Request, caller: ServiceCaller) -> Response:
    """A `webhook.test` event goes the way of all others; the log has what came of it."""
    return json_response(
        {"event_id": await _endpoints(request).test(_whose(caller), endpoint_id)}, 202
    )


@router.get(
    "/{endpoint_id}/deliveries",
    response_model=schemas.DeliveryList,
    responses=problems(404, 422),
    summary="What became of its events",
)
async def deliveries(
    endpoint_id: UUID,
    request: Request,
    caller: ServiceCaller,
    status: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> Response:
    """The newest first."""
    found = await _endpoints(request).deliveries(
        _whose(caller), endpoint_id, state=status, most=limit
    )
    return json_response({"items": [_delivery(row) for row in found]})


@router.post(
    "/{endpoint_id}/deliveries/{event_id}/redeliver",
    status_code=202,
    response_model=schemas.DeliveryScheduled,
    responses=problems(404, 409),
    summary="Send an event again",
)
async def redeliver(
    endpoint_id: UUID, event_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """At once, with the same id and body, whether it was delivered before or given up."""
    await _endpoints(request).redeliver(_whose(caller), endpoint_id, event_id)
    return json_response({"event_id": event_id}, 202)


def _endpoints(request: Request) -> WebhookEndpointService:
    found: WebhookEndpointService = request.app.state.endpoints
    return found


def _whose(caller: Principal) -> EndpointScope:
    return EndpointScope(name=caller.name, sees_all=caller.operator)


def _shown(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": str(endpoint.id),
        "owner": endpoint.owner,
        "url": endpoint.url,
        "description": endpoint.description,
        "state": endpoint.state,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": iso(endpoint.failing_since),
        "created_at": iso(endpoint.created_at),
        "updated_at": iso(endpoint.updated_at),
    }


def _delivery(row: dict[str, Any]) -> dict[str, Any]:
    times = ("next_attempt_at", "created_at", "updated_at", "delivered_at")
    shown = {name: value for name, value in row.items() if name not in {"state", *times}}
    return shown | {"status": row["state"]} | {name: iso(row[name]) for name in times}
