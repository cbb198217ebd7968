"""Statistics for operators: the minutes of the last hour, and what is open now.

Every statement is bounded by an index: by time in the timeline, or by partial indexes of what is
unfinished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.request_sql import NEXT_LOOK
from creativeflow.services.aigeneration.storage.state_sets import SQL_WITH_JOB

WAITS_MAX = 50
"""The number of deliveries of a minute and stage whose durations are computed."""
_WAITED_MAX = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteCounts:
    """Counts of one minute, over all processes; the waits are seconds from the order to the
    delivery.
    """

    at: datetime
    accepted: int = 0
    samples: int = 0
    finals: int = 0
    failed_attempts: int = 0
    completed: int = 0
    failed: int = 0
    rejected: int = 0
    cancelled: int = 0
    expired: int = 0
    samples_waits: tuple[float, ...] = ()
    final_waits: tuple[float, ...] = ()


_COUNTED = """
SELECT date_trunc('minute', at) AS minute,
       count(*) FILTER (WHERE event = 'submitted') AS accepted,
       count(*) FILTER (WHERE event = 'samples_delivered') AS samples,
       count(*) FILTER (WHERE event = 'final_delivered') AS finals,
       count(*) FILTER (WHERE event IN ('attempt_failed', 'attempts_exhausted', 'input_refused',
           'prompt_rejected'))
           AS failed_attempts,
       count(*) FILTER (WHERE state = 'COMPLETED') AS completed,
       count(*) FILTER (WHERE state = 'FAILED') AS failed,
       count(*) FILTER (WHERE state = 'CONTENT_REJECTED') AS rejected,
       count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled,
       count(*) FILTER (WHERE state = 'EXPIRED') AS expired
FROM generation_events WHERE at >= $1 AND at < $2 GROUP BY 1"""

# A stage is ordered when its job gets its first place in the queue; another attempt keeps that
# moment.
_WAITED = """
WITH delivered AS (
    SELECT request_id, seq, at, event,
           row_number() OVER (PARTITION BY event, date_trunc('minute', at) ORDER BY seq) AS nth
    FROM generation_events WHERE at >= $1 AND at < $2 AND event
        IN ('samples_delivered', 'final_delivered')
)
SELECT date_trunc('minute', d.at) AS minute, d.event,
       array_agg(extract(epoch FROM d.at - ordered.at)::float8 ORDER BY d.seq) AS seconds
FROM delivered d CROSS JOIN LATERAL (
    SELECT o.at FROM generation_events o
    WHERE o.request_id = d.request_id AND o.seq < d.seq AND o.at <= d.at AND o.at >= d.at
        - $4::interval
      AND o.event IN ('submitted', 'credits_held', 'review_passed', 'regeneration_requested',
          'sample_selected')
    ORDER BY o.seq DESC LIMIT 1) ordered
WHERE d.nth <= $3 GROUP BY 1, 2"""

# Whatever is set aside belongs to a job that is not finished, or is still being asked for.
_SET_ASIDE = f"""
SELECT count(*) FILTER (WHERE state = 'held') AS held,
    COALESCE(sum(amount) FILTER (WHERE state = 'held'), 0) AS amount,
       count(*) FILTER (WHERE state = 'placing') AS placing
FROM (
    SELECT h.state, h.amount FROM generation_requests r JOIN holds h ON h.request_id = r.id
    WHERE r.state IN {SQL_WITH_JOB}
      AND h.state = 'held' AND h.funding = 'credits'
    UNION ALL
    SELECT state, amount FROM holds WHERE state = 'placing' AND parked_at IS NULL
    UNION ALL
    SELECT state, amount FROM holds WHERE state = 'placing' AND parked_at IS NOT NULL
) outstanding"""  # noqa: S608 - constants

_BY_USER = f"""
SELECT r.stage AS lane, r.user_id, max(r.plan) AS plan,
       count(*) FILTER (WHERE r.state = 'PENDING') AS waiting,
       count(*) FILTER (WHERE r.state <> 'PENDING') AS in_flight,
       min(r.fair_at) FILTER (WHERE r.state = 'PENDING') - l.virtual_time AS starts_in,
       min(r.updated_at) FILTER (WHERE r.state = 'PENDING') AS waiting_since,
       count(*) OVER (PARTITION BY r.stage) AS users
FROM generation_requests r JOIN lanes l ON l.lane = r.stage
WHERE r.state IN {SQL_WITH_JOB}
GROUP BY r.stage, r.user_id, l.virtual_time
ORDER BY r.stage DESC, starts_in NULLS LAST, in_flight DESC, r.user_id LIMIT $1"""  # noqa: S608 - constants

_OPEN = f"""
SELECT (SELECT count(*) FROM outbox WHERE parked_reason IS NOT NULL) AS messages,
       (SELECT count(*) FROM holds WHERE state = 'placing' AND parked_at IS NOT NULL) AS holds,
       (SELECT count(*) FROM generation_requests WHERE state = 'VALIDATING_CREDITS'
           AND pending_action IS NOT NULL)
           AS reviews,
       (SELECT count(DISTINCT user_id) FROM account_flags WHERE cleared_at IS NULL) AS flags,
       (SELECT count(*) FROM generation_requests r WHERE r.deadline_at IS NOT NULL
           AND {NEXT_LOOK} < $1
            AND LEAST(r.deadline_at, r.lease_until) < $1) AS stuck"""  # noqa: S608 - a constant of the store


class Statistics:
    """Statistics of events and of open work; each is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def minutes(self, since: datetime, until: datetime) -> list[MinuteCounts]:
        """Return the minutes with events, oldest first; `since` is the beginning of a minute."""
        counted = await self._database.fetch(_COUNTED, since, until)
        waited = await self._database.fetch(_WAITED, since, until, WAITS_MAX, _WAITED_MAX)
        waits: dict[tuple[datetime, str], tuple[float, ...]] = {
            (row["minute"], row["event"]): tuple(row["seconds"]) for row in waited
        }
        return [
            MinuteCounts(
                at=row["minute"],
                samples_waits=waits.get((row["minute"], "samples_delivered"), ()),
                final_waits=waits.get((row["minute"], "final_delivered"), ()),
                **{name: count for name, count in row.items() if name != "minute"},
            )
            for row in sorted(counted, key=lambda row: row["minute"])
        ]

    async def set_aside(self) -> dict[str, int]:
        """Return the outstanding holds: how many are held, their sum in 1/100 credit, and how
        many are being placed.

        Holds in doubt count as being placed.
        """
        row = await self._database.fetchrow(_SET_ASIDE)
        return {name: int(value) for name, value in (row or {}).items()}

    async def queue_by_user(self, most: int) -> list[dict[str, Any]]:
        """Return the users of each lane in fair order, with their waiting and leased jobs.

        `starts_in` is how far ahead of the lane's virtual time the user's next job starts: 0 is
        now.
        """
        return [dict(row) for row in await self._database.fetch(_BY_USER, most)]

    async def needs(self, now: datetime) -> dict[str, int]:
        """Return how many items need an operator, by kind; accounts for `flags`."""
        row = await self._database.fetchrow(_OPEN, now - timedelta(minutes=1))
        return dict(row) if row else {}

    async def mark(self) -> tuple[int, int]:
        """Return a marker that changes with every event: the timeline's last number, and how
        much is parked.
        """
        row = await self._database.fetchrow(
            """SELECT COALESCE(pg_sequence_last_value('generation_events_seq'), 0) AS last,
                      (SELECT count(*) FROM outbox WHERE parked_reason IS NOT NULL) AS parked"""
        )
        return (row["last"], row["parked"]) if row else (0, 0)

    async def given_up(self, since: datetime, most: int) -> list[dict[str, Any]]:
        """Return webhook deliveries that failed since then, newest first, with their endpoint."""
        found = await self._database.fetch(
            """SELECT d.target_id AS endpoint_id, d.event_id, d.request_id, d.type, d.state,
                d.attempts, d.last_status, d.last_error,
                      d.updated_at, t.url, t.owner, t.state AS endpoint_state
               FROM webhook_deliveries d LEFT JOIN webhook_targets t ON t.id = d.target_id
               WHERE d.state = 'failed' AND d.updated_at >= $1 ORDER BY d.updated_at DESC
                   LIMIT $2""",
            since,
            most,
        )
        return [dict(row) for row in found]

    async def deliveries_of(self, request_id: Any, most: int = 100) -> Sequence[dict[str, Any]]:
        """Return the webhook deliveries of one request, oldest first.

        A delivery is created in the statement of the timeline entry that it announces, so their
        times agree.
        """
        found = await self._database.fetch(
            """SELECT d.target_id AS endpoint_id, d.event_id, d.request_id, d.type, d.state,
                d.attempts, d.last_status, d.last_error,
                      d.next_attempt_at, d.created_at, d.updated_at, t.url, t.owner,
                          t.state AS endpoint_state
               FROM webhook_deliveries d LEFT JOIN webhook_targets t ON t.id = d.target_id
               WHERE d.created_at IN (SELECT at FROM generation_events WHERE request_id = $1
                   AND version IS NOT NULL)
                 AND d.request_id = $1
               ORDER BY d.created_at, d.event_id LIMIT $2""",
            request_id,
            most,
        )
        return [dict(row) for row in found]
