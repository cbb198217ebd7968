"""Webhook endpoints and their deliveries."""

from dataclasses import dataclass, field
from datetime import datetime

from creativeflow.clients.aigeneration.resources.parsing import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint(Resource):
    """A webhook endpoint; `failing_since` is the first of the attempts that failed in a row."""

    id: str
    owner: str
    url: str
    description: str | None
    state: str
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpointWithSecret(WebhookEndpoint):
    """A webhook endpoint with its secret, which no other call returns."""

    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Resource):
    """A delivery of one event; `last_error` names the error of the last attempt."""

    event_id: str
    request_id: str | None
    type: str
    status: str
    attempts: int
    last_status: int | None
    last_error: str | None
    duration_ms: int | None
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryScheduled(Resource):
    """A scheduled event; its id is the `webhook-id` of every attempt."""

    event_id: str
