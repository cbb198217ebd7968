"""Endpoints for managing webhook endpoints and their deliveries."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import Principal, ServiceCaller
from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import webhook_endpoints as schemas
from creativeflow.services.aigeneration.api.services import services_of
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
    summary="Create a webhook endpoint",
)
async def create_webhook_endpoint(
    body: schemas.WebhookEndpointCreate, request: Request, caller: ServiceCaller
) -> Response:
    """Register a URL for the events of requests that this caller creates from now on; each URL
    once.
    """
    endpoint = await _endpoints(request).register(
        _scope_of(caller), body.url, body.secret, body.description
    )
    return json_response(
        _to_json(endpoint) | {"secret": endpoint.secret},
        201,
        {"Location": f"{router.prefix}/{endpoint.id}"},
    )


@router.get("", response_model=schemas.WebhookEndpointList, summary="List webhook endpoints")
async def list_webhook_endpoints(request: Request, caller: ServiceCaller) -> Response:
    """Return the endpoints; a service sees its own, an operator all. Secrets are not included."""
    return json_response(
        {
            "items": [
                _to_json(endpoint) for endpoint in await _endpoints(request).page(_scope_of(caller))
            ]
        }
    )


@router.get(
    "/{endpoint_id}",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="Get a webhook endpoint",
)
async def get_webhook_endpoint(
    endpoint_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Return the URL and the state of an endpoint."""
    return json_response(_to_json(await _endpoints(request).one(_scope_of(caller), endpoint_id)))


@router.delete(
    "/{endpoint_id}", status_code=204, responses=problems(404), summary="Delete a webhook endpoint"
)
async def delete_webhook_endpoint(
    endpoint_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Delete an endpoint; its pending deliveries are dropped."""
    await _endpoints(request).delete(_scope_of(caller), endpoint_id)
    return Response(status_code=204)


@router.post(
    "/{endpoint_id}/enable",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="Enable a webhook endpoint",
)
async def enable_webhook_endpoint(
    endpoint_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Enable an endpoint; events dropped while it was disabled can be redelivered one by one."""
    return json_response(_to_json(await _endpoints(request).enable(_scope_of(caller), endpoint_id)))


@router.post(
    "/{endpoint_id}/disable",
    response_model=schemas.WebhookEndpointOut,
    responses=problems(404),
    summary="Disable a webhook endpoint",
)
async def disable_webhook_endpoint(
    endpoint_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Stop sending events and drop the pending deliveries."""
    return json_response(
        _to_json(await _endpoints(request).disable(_scope_of(caller), endpoint_id))
    )


@router.post(
    "/{endpoint_id}/rotate-secret",
    response_model=schemas.WebhookEndpointWithSecret,
    responses=problems(404, 422),
    summary="Rotate the secret of a webhook endpoint",
)
async def rotate_webhook_secret(
    endpoint_id: UUID,
    request: Request,
    caller: ServiceCaller,
    body: schemas.SecretRotate | None = None,
) -> Response:
    """Sign with a new secret; for 24 hours the old one signs as well, so that receivers can
    switch.
    """
    endpoint = await _endpoints(request).rotate(
        _scope_of(caller), endpoint_id, body.secret if body else None
    )
    return json_response(_to_json(endpoint) | {"secret": endpoint.secret})


@router.post(
    "/{endpoint_id}/test",
    status_code=202,
    response_model=schemas.DeliveryScheduled,
    responses=problems(404, 409),
    summary="Send a test event",
)
async def test_webhook_endpoint(
    endpoint_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Send a `webhook.test` event like any other; the deliveries show its outcome."""
    return json_response(
        {"event_id": await _endpoints(request).test(_scope_of(caller), endpoint_id)}, 202
    )


@router.get(
    "/{endpoint_id}/deliveries",
    response_model=schemas.DeliveryList,
    responses=problems(404, 422),
    summary="List webhook deliveries",
)
async def list_webhook_deliveries(
    endpoint_id: UUID,
    request: Request,
    caller: ServiceCaller,
    status: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> Response:
    """Return the deliveries of an endpoint, newest first."""
    found = await _endpoints(request).deliveries(
        _scope_of(caller), endpoint_id, state=status, most=limit
    )
    return json_response({"items": [_delivery(row) for row in found]})


@router.post(
    "/{endpoint_id}/deliveries/{event_id}/redeliver",
    status_code=202,
    response_model=schemas.DeliveryScheduled,
    responses=problems(404, 409),
    summary="Redeliver a webhook event",
)
async def redeliver_webhook_event(
    endpoint_id: UUID, event_id: UUID, request: Request, caller: ServiceCaller
) -> Response:
    """Send an event again at once, with the same id and body, whether it was delivered or
    dropped.
    """
    await _endpoints(request).redeliver(_scope_of(caller), endpoint_id, event_id)
    return json_response({"event_id": event_id}, 202)


def _endpoints(request: Request) -> WebhookEndpointService:
    return services_of(request).webhook_endpoints


def _scope_of(caller: Principal) -> EndpointScope:
    return EndpointScope(name=caller.identity, sees_all=caller.operator)


def _to_json(endpoint: WebhookEndpoint) -> dict[str, Any]:
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
