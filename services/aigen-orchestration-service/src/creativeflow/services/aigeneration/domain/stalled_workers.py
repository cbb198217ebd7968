"""Detection of stalled workers from the jobs of a lane and the state of its queue."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from creativeflow.services.aigeneration.domain.lifecycle import Stage


class StallKind(StrEnum):
    """A kind of stall of the workers of a lane."""

    NO_CONSUMER = "no_consumer"
    """Jobs are queued without a consumer: the workflow is inactive, or its trigger has ended."""
    NOT_TAKING = "not_taking"
    """Jobs are queued, a consumer exists, and nothing is reported: the workers are blocked or lose
    jobs.
    """
    NEVER_STARTED = "never_started"
    """Workers took all jobs and reported nothing: acknowledged and lost, or blocked at the first
    step.
    """
    SILENT = "silent"
    """Workers reported the start and nothing since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWork:
    """The broker-confirmed jobs of a lane, and the time of the oldest one's last report.

    `unreported` jobs have no report yet; `silent` ones were started.
    """

    lane: Stage
    unreported: int = 0
    unreported_since: datetime | None = None
    silent: int = 0
    silent_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSeen:
    """The state of a lane's queue in the broker: ready messages and consumers."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A stall; `jobs` are the affected jobs, `since` is when the oldest began to wait."""

    lane: Stage
    kind: StallKind
    jobs: int
    since: datetime


def stalls(
    work: LaneWork, queue: QueueSeen | None, *, now: datetime, quiet_for: timedelta
) -> list[Stall]:
    """Return the stalls of a lane; none if anything was reported within `quiet_for`.

    Without the state of the queue (None), only stalls that the jobs themselves show are returned.
    """
    found = []
    if work.unreported and work.unreported_since and now - work.unreported_since > quiet_for:
        kind, jobs = StallKind.NEVER_STARTED, work.unreported
        if queue is not None and queue.ready:
            kind = StallKind.NO_CONSUMER if queue.consumers == 0 else StallKind.NOT_TAKING
            jobs = (
                min(queue.ready, work.unreported)
                if kind is StallKind.NO_CONSUMER
                else work.unreported
            )
        found.append(Stall(lane=work.lane, kind=kind, jobs=jobs, since=work.unreported_since))
    if work.silent and work.silent_since and now - work.silent_since > quiet_for:
        found.append(
            Stall(lane=work.lane, kind=StallKind.SILENT, jobs=work.silent, since=work.silent_since)
        )
    return found
