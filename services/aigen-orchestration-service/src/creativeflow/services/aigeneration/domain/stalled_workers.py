"""Detection of workers that have stopped although everything looks healthy, from a lane and its
queue.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from creativeflow.services.aigeneration.domain.lifecycle import Stage


class StallKind(StrEnum):
    """A kind of stall of the workers of a lane."""

    NO_CONSUMER = "no_consumer"
    """Jobs wait in the queue without a consumer: the workflow is off, or its trigger has died."""
    NOT_TAKING = "not_taking"
    """Jobs wait, a consumer exists, and nothing is reported: it is busy with work that never
    ends, or loses jobs.
    """
    NEVER_STARTED = "never_started"
    """Workers have taken every job and report nothing: acknowledged and lost, or stuck before
    the first step.
    """
    SILENT = "silent"
    """Workers have reported the start, and nothing since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWork:
    """The jobs of a lane that the broker has confirmed, and since when the oldest has been
    silent.

    `unreported` jobs have no report of a worker yet; `silent` ones were begun.
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
    """A stall; `jobs` are those that wait because of it, `since` is when the oldest began to
    wait.
    """

    lane: Stage
    kind: StallKind
    jobs: int
    since: datetime


def stalls(
    work: LaneWork, queue: QueueSeen | None, *, now: datetime, quiet_for: timedelta
) -> list[Stall]:
    """Return the stalls of a lane; none while something was reported within `quiet_for`.

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
