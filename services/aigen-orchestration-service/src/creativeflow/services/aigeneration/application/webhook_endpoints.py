"""Webhook endpoints: create, change, test, and list deliveries."""

import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.outbound_urls import UnfitAddressError
from creativeflow.services.aigeneration.domain.request import iso
from creativeflow.services.aigeneration.domain.webhooks import (
    TEST_EVENT,
    DisabledReason,
    EndpointState,
)
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from creativeflow.services.aigeneration.storage.webhook_endpoints import (
    AddressTaken,
    TooMany,
    WebhookEndpoint,
    WebhookEndpointStore,
)

PAGE_MAX = 1000
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointScope:
    """The endpoints that a caller may see; with `sees_all`, an operator's, all."""

    name: str
    sees_all: bool

    @property
    def owner(self) -> str | None:
        """The owner whose endpoints are visible; None for all."""
        return None if self.sees_all else self.name


class WebhookEndpointService:
    """The use cases of webhook endpoints. `check` decides whether a URL may be called now."""

    def __init__(
        self,
        endpoints: WebhookEndpointStore,
        deliveries: DeliveryStore,
        check: Callable[[str], Awaitable[None]],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        most: int,
        on_change: Callable[[], None],
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._check = check
        self._now = now
        self._new_id = new_id
        self._most = most
        self._on_change = on_change

    async def register(
        self, scope: EndpointScope, url: str, secret: str | None, description: str | None
    ) -> WebhookEndpoint:
        """Create an enabled endpoint.

        Raises:
            InvalidRequestError: the URL must not be called.
            WebhookEndpointExistsError, TooManyWebhookEndpointsError
        """
        try:
            await self._check(url)
        except UnfitAddressError as error:
            raise errors.InvalidRequestError.at("/url", error.code, str(error)) from None
        now = self._now()
        endpoint = WebhookEndpoint(
            id=self._new_id(),
            owner=scope.name,
            url=url,
            description=description,
            state=EndpointState.ENABLED,
            disabled_reason=None,
            failing_since=None,
            created_at=now,
            updated_at=now,
            secret=secret or new_secret(),
            previous_secrets=(),
        )
        match await self._endpoints.create(endpoint, most=self._most):
            case AddressTaken(known):
                raise errors.WebhookEndpointExistsError(endpoint_id=str(known))
            case TooMany():
                raise errors.TooManyWebhookEndpointsError(limit=self._most)
        self._on_change()
        return endpoint

    async def page(self, scope: EndpointScope) -> list[WebhookEndpoint]:
        """Return the visible endpoints."""
        return await self._endpoints.page(scope.owner, PAGE_MAX)

    async def one(self, scope: EndpointScope, endpoint_id: UUID) -> WebhookEndpoint:
        """Return one endpoint.

        Raises:
            NotFoundError: it does not exist or belongs to another owner.
        """
        return _there(await self._endpoints.find(endpoint_id, scope.owner))

    async def delete(self, scope: EndpointScope, endpoint_id: UUID) -> None:
        """Delete an endpoint and its pending deliveries."""
        await self.one(scope, endpoint_id)
        await self._endpoints.delete(endpoint_id)

    async def enable(self, scope: EndpointScope, endpoint_id: UUID) -> WebhookEndpoint:
        """Enable an endpoint, or clear the failures of an enabled one."""
        await self.one(scope, endpoint_id)
        enabled = _there(await self._endpoints.enable(endpoint_id, self._now()))
        self._on_change()
        return enabled

    async def disable(self, scope: EndpointScope, endpoint_id: UUID) -> WebhookEndpoint:
        """Disable an endpoint."""
        await self.one(scope, endpoint_id)
        await self._endpoints.disable(endpoint_id, DisabledReason.CALLER, self._now())
        return await self.one(scope, endpoint_id)

    async def rotate(
        self, scope: EndpointScope, endpoint_id: UUID, secret: str | None
    ) -> WebhookEndpoint:
        """Rotate the secret; the old one signs beside it for a day."""
        await self.one(scope, endpoint_id)
        return _there(
            await self._endpoints.rotate(endpoint_id, secret or new_secret(), self._now())
        )

    async def test(self, scope: EndpointScope, endpoint_id: UUID) -> UUID:
        """Send a test event; return its id."""
        await self._enabled(scope, endpoint_id)
        now, event_id = self._now(), self._new_id()
        event = {
            "type": TEST_EVENT,
            "timestamp": iso(now),
            "data": {"endpoint_id": str(endpoint_id)},
        }
        await self._deliveries.announce(
            endpoint_id, event_id, event_type=TEST_EVENT, body=orjson.dumps(event).decode(), now=now
        )
        self._on_change()
        return event_id

    async def deliveries(
        self, scope: EndpointScope, endpoint_id: UUID, *, state: str | None, most: int
    ) -> list[dict[str, Any]]:
        """Return the deliveries, newest first."""
        await self.one(scope, endpoint_id)
        return await self._deliveries.page(endpoint_id, state=state, most=most)

    async def redeliver(self, scope: EndpointScope, endpoint_id: UUID, event_id: UUID) -> None:
        """Send an event again, with the same id and body.

        Raises:
            NotFoundError: the event is not in the log.
            WebhookEndpointDisabledError
        """
        await self._enabled(scope, endpoint_id)
        if not await self._deliveries.redeliver(
            endpoint_id, event_id, by=scope.name, now=self._now()
        ):
            raise errors.NotFoundError
        self._on_change()

    async def _enabled(self, scope: EndpointScope, endpoint_id: UUID) -> None:
        if (await self.one(scope, endpoint_id)).state is not EndpointState.ENABLED:
            raise errors.WebhookEndpointDisabledError


def new_secret() -> str:
    """Return a new secret in the format of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _there(endpoint: WebhookEndpoint | None) -> WebhookEndpoint:
    if endpoint is None:
        raise errors.NotFoundError
    return endpoint
