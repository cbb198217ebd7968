"""Webhook endpoints of the calling service."""

from typing import Any

from creativeflow.clients.aigeneration._async.session import AsyncSession
from creativeflow.clients.aigeneration.calls import Call
from creativeflow.clients.aigeneration.resources.webhook_endpoints import (
    Delivery,
    DeliveryScheduled,
    WebhookEndpoint,
    WebhookEndpointWithSecret,
)

_ENDPOINTS = "/api/v1/webhook-endpoints"
_ENDPOINT = "/api/v1/webhook-endpoints/{endpoint_id}"


class AsyncWebhookEndpoints:
    """Calls on webhook endpoints."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self, url: str, *, description: str | None = None, secret: str | None = None
    ) -> WebhookEndpointWithSecret:
        """Create a webhook endpoint for the events of generations created from now on.

        Without `secret` the service generates one.
        """
        body = {"url": url, "description": description, "secret": secret}
        call = Call(method="POST", path=_ENDPOINTS, body=body, repeatable=False)
        return WebhookEndpointWithSecret.parse(await self._session.request(call))

    async def list(self) -> tuple[WebhookEndpoint, ...]:
        """Return the caller's endpoints, for operators all; oldest first."""
        call = Call(method="GET", path=_ENDPOINTS)
        return WebhookEndpoint.parse_items(await self._session.request(call))

    async def get(self, endpoint_id: str) -> WebhookEndpoint:
        """Return an endpoint."""
        return WebhookEndpoint.parse(await self._call("GET", _ENDPOINT, endpoint_id))

    async def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint; its pending deliveries are dropped."""
        await self._call("DELETE", _ENDPOINT, endpoint_id)

    async def enable(self, endpoint_id: str) -> WebhookEndpoint:
        """Send events from now on."""
        path = f"{_ENDPOINT}/enable"
        return WebhookEndpoint.parse(await self._call("POST", path, endpoint_id))

    async def disable(self, endpoint_id: str) -> WebhookEndpoint:
        """Stop sending events and drop the pending deliveries."""
        path = f"{_ENDPOINT}/disable"
        return WebhookEndpoint.parse(await self._call("POST", path, endpoint_id))

    async def rotate_secret(
        self, endpoint_id: str, *, secret: str | None = None
    ) -> WebhookEndpointWithSecret:
        """Replace the secret; for 24 hours the old one signs beside it."""
        return WebhookEndpointWithSecret.parse(
            await self._call(
                "POST",
                f"{_ENDPOINT}/rotate-secret",
                endpoint_id,
                body={"secret": secret},
                repeatable=False,
            )
        )

    async def test(self, endpoint_id: str) -> DeliveryScheduled:
        """Send a `webhook.test` event."""
        path = f"{_ENDPOINT}/test"
        return DeliveryScheduled.parse(
            await self._call("POST", path, endpoint_id, repeatable=False)
        )

    async def list_deliveries(
        self, endpoint_id: str, *, status: str | None = None, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Return the deliveries of an endpoint, newest first; at most 100."""
        query = {"status": status, "limit": limit}
        path = f"{_ENDPOINT}/deliveries"
        return Delivery.parse_items(await self._call("GET", path, endpoint_id, query=query))

    async def redeliver(self, endpoint_id: str, event_id: str) -> DeliveryScheduled:
        """Send an event again, with the same id and body."""
        call = Call(
            method="POST",
            path=f"{_ENDPOINT}/deliveries/{{event_id}}/redeliver",
            path_parameters={"endpoint_id": endpoint_id, "event_id": event_id},
            repeatable=False,
        )
        return DeliveryScheduled.parse(await self._session.request(call))

    async def _call(self, method: str, path: str, endpoint_id: str, **more: Any) -> Any:
        parameters = {"endpoint_id": endpoint_id}
        return await self._session.request(
            Call(method=method, path=path, path_parameters=parameters, **more)
        )
