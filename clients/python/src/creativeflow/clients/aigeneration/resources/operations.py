"""What operators read about work: outbox, queues, invariants, health."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from creativeflow.clients.aigeneration.resources.parsing import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage(Resource):
    """An outbox message; `parked_reason` is set if an operator must replay or drop it."""

    id: int
    request_id: str | None
    topic: str
    attempts: int
    due_at: datetime
    last_error: str | None
    parked_reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane(Resource):
    """A lane of the fair queue."""

    lane: str
    waiting: int
    in_flight: int
    oldest_waiting_since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxDepth(Resource):
    """Numbers of open and parked outbox messages; those to webhook endpoints apart."""

    open: int
    parked: int
    webhooks: int
    webhooks_parked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerQueue(Resource):
    """A queue of the broker."""

    messages: int
    consumers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Resource):
    """A lane whose workers are silent, and the number of jobs that wait because of it."""

    lane: str
    kind: str
    jobs: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues(Resource):
    """Queue depths; a broker queue is None if its depth is not known."""

    lanes: tuple[Lane, ...]
    outbox: OutboxDepth
    broker: Mapping[str, BrokerQueue | None]
    stalled: tuple[Stall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariants(Resource):
    """Counts that must be 0, by invariant."""

    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Resource):
    """The liveness of a process."""

    status: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyCheck(Resource):
    """The state of one dependency."""

    ok: bool
    required: bool
    detail: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness(Resource):
    """The readiness of a process: `status` is ready or not_ready; `checks` are for operators."""

    status: str
    checks: Mapping[str, DependencyCheck] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every required dependency is usable."""
        return self.status == "ready"
