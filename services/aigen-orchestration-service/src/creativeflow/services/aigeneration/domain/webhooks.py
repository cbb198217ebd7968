"""What service callers are told by webhook: the events, the schedule of tries, and what a try comes
to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""The waits between tries that the Standard Webhooks specification recommends; the first try is
immediate.
"""
JITTER = 0.1
"""Waits differ by up to a tenth, so that what failed together is not tried together."""
FAILING_MAX = timedelta(days=5)
"""An endpoint at which every try failed for so long is disabled."""
RETRY_AFTER_MAX = timedelta(days=1)
SECRET_OVERLAP = timedelta(hours=24)
"""How long the secret before a rotation signs beside the new one."""
TEST_EVENT = "webhook.test"


def event_type(topic_event: str) -> str:
    """The `type` of a lifecycle event, such as `generation.completed`."""
    return f"generation.{topic_event}"


class EndpointState(StrEnum):
    """Whether events are sent to an endpoint."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DeliveryState(StrEnum):
    """What has become of one event at one endpoint; `failed`: given up, because its endpoint was
    disabled or gone.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    PARKED = "parked"


class DeliveryError(StrEnum):
    """Why a try failed, without anything that the receiver said."""

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
    """One try: the status where there was an answer, and what was wrong; None: it was taken."""

    status: int | None
    trouble: DeliveryError | None
    duration_ms: int
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """Taken by the receiver."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """To be tried again after `delay`."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The schedule is at its end: a person must look."""

    reason: str


@dataclass(frozen=True, slots=True)
class Disable:
    """The endpoint is to be disabled, and everything that is owed to it given up."""

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
    """What a try comes to; `tries` counts this one, `jitter` stretches the wait.

    A Retry-After can only lengthen the wait: receivers say when they are ready, the schedule how
    often to ask.
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
