"""Request and response bodies of webhook endpoints and their deliveries."""

import base64
import binascii
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from creativeflow.services.aigeneration.api.schemas.generations import Body, Clean
from creativeflow.services.aigeneration.domain.outbound_urls import URL_MAX
from creativeflow.services.aigeneration.domain.webhooks import (
    DeliveryError,
    DeliveryState,
    DisabledReason,
    EndpointState,
)

_KEY_MIN, _KEY_MAX = 24, 64


def _secret(text: str) -> str:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not _KEY_MIN <= len(key) <= _KEY_MAX:
        raise ValueError(
            f"invalid_secret: Use whsec_ and then {_KEY_MIN} to {_KEY_MAX} random bytes in base64,"
            " or leave it out."
        )
    return text


Secret = Annotated[str, Field(max_length=200), AfterValidator(_secret)]


class WebhookEndpointCreate(Body):
    """The URL for events; without a `secret` one is generated."""

    url: Annotated[
        str,
        Field(min_length=1, max_length=URL_MAX, examples=["https://hooks.example.com/creatives"]),
    ]
    secret: Secret | None = None
    description: Annotated[str, Field(min_length=1, max_length=200), Clean] | None = None


class SecretRotate(Body):
    """The new signing secret; without one it is generated."""

    secret: Secret | None = None


class WebhookEndpointOut(BaseModel):
    """A webhook endpoint; `failing_since` is the first of the attempts that failed in a row."""

    id: UUID
    owner: str
    url: str
    description: str | None
    state: EndpointState
    disabled_reason: DisabledReason | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime


class WebhookEndpointWithSecret(WebhookEndpointOut):
    """A webhook endpoint with its secret, which is shown at no other time."""

    secret: str


class WebhookEndpointList(BaseModel):
    """Webhook endpoints, oldest first."""

    items: list[WebhookEndpointOut]


class DeliveryOut(BaseModel):
    """A delivery of one event; `last_error` names the error of the last attempt."""

    event_id: UUID
    request_id: UUID | None
    type: str
    status: DeliveryState
    attempts: int
    last_status: int | None
    last_error: DeliveryError | None
    duration_ms: int | None
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime
    delivered_at: datetime | None


class DeliveryList(BaseModel):
    """Deliveries, newest first."""

    items: list[DeliveryOut]


class DeliveryScheduled(BaseModel):
    """A scheduled event; its id is the `webhook-id` of every attempt."""

    event_id: UUID
