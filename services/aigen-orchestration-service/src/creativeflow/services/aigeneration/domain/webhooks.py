"""Webhook rules: event types, retry schedule, and the outcome of an attempt."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""Delays between attempts, as recommended by the Standard Webhooks specification; the first attempt
is immediate.
"""
JITTER = 0.1
"""Delays vary by up to a tenth, so that events that failed together are not retried together."""
FAILING_MAX = timedelta(days=5)
"""An endpoint at which every attempt has failed for this long is disabled."""
RETRY_AFTER_MAX = timedelta(days=1)
SECRET_OVERLAP = timedelta(hours=24)
"""Time for which the previous secret signs beside the new one after a rotation."""
TEST_EVENT = "webhook.test"


def event_type(topic_event: str) -> str:
    """The `type` of a lifecycle event, such as `generation.completed`."""
    return f"generation.{topic_event}"


class EndpointState(StrEnum):
    """Whether events are sent to an endpoint."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DeliveryState(StrEnum):
    """The state of the delivery of one event to one endpoint; `failed`: given up because the
    endpoint was disabled.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    PARKED = "parked"


class DeliveryError(StrEnum):
    """Why an attempt failed; never content of the receiver's response."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNKNOWN_HOST = "host_not_allowed"
    TLS_FAILED = "tls_failed"
    ADDRESS_REFUSED = "address_refused"
    REDIRECTED = "redirected"
    BAD_STATUS = "bad_status"
    BAD_ANSWER = "bad_answer"
    GONE = "gone"
    ENDPOINT_DISABLED = "endpoint_disabled"


class DisabledReason(StrEnum):
    """Why an endpoint is disabled."""

    CALLER = "by_caller"
    GONE = "gone"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt: the response status, if any, and the error; without an error it succeeded."""

    status: int | None
    trouble: DeliveryError | None
    duration_ms: int
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver accepted the event."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The attempt is repeated after `delay`."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The schedule is exhausted; an operator decides."""

    reason: str


@dataclass(frozen=True, slots=True)
class Disable:
    """The endpoint is to be disabled and its pending deliveries given up."""

    reason: DisabledReason


AttemptOutcome = Delivered | RetryLater | Exhausted | Disable


def classify_attempt(
    attempt: Attempt,
    *,
    tries: int,
    failing_since: datetime | None,
    now: datetime,
    jitter: float = 1.0,
) -> AttemptOutcome:
    """Return the outcome of an attempt; `tries` counts this one, `jitter` stretches the delay.

    A Retry-After can only lengthen the delay.
    """
    if attempt.trouble is None:
        return Delivered()
    if attempt.trouble is DeliveryError.GONE:
        return Disable(DisabledReason.GONE)
    if failing_since is not None and now - failing_since >= FAILING_MAX:
        return Disable(DisabledReason.FAILING)
    if tries > len(SCHEDULE):
        answered = f" {attempt.status}" if attempt.status else ""
        return Exhausted(f"given up after {tries} tries: {attempt.trouble}{answered}")
    wait = SCHEDULE[tries - 1] * jitter
    return RetryLater(max(wait, min(attempt.retry_after or wait, RETRY_AFTER_MAX)))
