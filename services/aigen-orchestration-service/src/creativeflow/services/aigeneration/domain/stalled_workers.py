"""How it shows that workers have stopped working though everything looks well: one look at a lane
and its queue.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from creativeflow.services.aigeneration.domain.lifecycle import Stage


class StallKind(StrEnum):
    """What is wrong with the workers of a lane."""

    NO_CONSUMER = "no_consumer"
    """Jobs wait in the queue and nobody consumes it: the workflow is off, or its trigger has died
    in silence.
    """
    NOT_TAKING = "not_taking"
    """Jobs wait, somebody consumes, and nothing is reported: full of work that never ends, or
    taking and losing it.
    """
    NEVER_STARTED = "never_started"
    """Workers took everything and report nothing: acknowledged and lost, or stuck before the first
    step.
    """
    SILENT = "silent"
    """Workers said that they had begun, and nothing since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWork:
    """What is known of the jobs of a lane that the broker has: since when the oldest has not been
    heard of.

    `unreported` jobs were confirmed by the broker and no worker has spoken of them; `silent` ones
    were begun.
    """

    lane: Stage
    unreported: int = 0
    unreported_since: datetime | None = None
    silent: int = 0
    silent_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSeen:
    """What the broker says of a lane's queue: messages nobody has taken, and consumers."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """One thing that is wrong; `jobs` are those that wait because of it, `since` when the oldest
    began to.
    """

    lane: Stage
    kind: StallKind
    jobs: int
    since: datetime


def stalls(
    work: LaneWork, queue: QueueSeen | None, *, now: datetime, quiet_for: timedelta
) -> list[Stall]:
    """What is wrong with a lane; nothing is while something was heard of within `quiet_for`.

    Without a word from the broker (None) only what the jobs themselves show is told.
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
