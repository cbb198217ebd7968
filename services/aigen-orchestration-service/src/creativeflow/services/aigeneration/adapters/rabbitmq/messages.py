"""Messages to publish, deliveries to handle, and their outcomes."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to publish; header values may be what AMQP knows: no floats, no tuples."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str | None = None
    type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    timestamp: int | None = field(default_factory=lambda: int(time.time()))  # unix seconds


class PublishOutcome(StrEnum):
    """The outcome of a published message; after LOST it may or may not be in its queues."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The outcome of one published message; the reason is empty when it is confirmed."""

    outcome: PublishOutcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as its consumer receives it."""

    body: bytes = field(repr=False)
    routing_key: str
    exchange: str
    redelivered: bool
    message_id: str | None
    correlation_id: str | None
    type: str | None
    headers: dict[str, Any]


class TryAgainError(Exception):
    """Raised by a handler when a dependency is away: it is run again, without a traceback."""


class AckDecision(Enum):
    """The result of a handler: acknowledge, reject (dead-letter or drop), or requeue at once."""

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


Handler = Callable[[Delivery], Awaitable[AckDecision]]
