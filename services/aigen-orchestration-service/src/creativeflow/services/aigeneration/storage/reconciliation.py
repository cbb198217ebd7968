"""Our side of a reconciliation: the holds as they are booked, and the messages that mend a
difference.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.storage.database import Database

_PAGE = 500

_MARK = "reconciled_until"
_CHANGED = """
SELECT key, changed_at FROM (
    SELECT key, began_at AS changed_at FROM holds WHERE funding = 'credits'
        AND began_at >= $1 AND began_at < $2 AND resolved_at IS NULL
    UNION ALL
    SELECT key, resolved_at FROM holds WHERE funding = 'credits'
        AND resolved_at >= $1 AND resolved_at < $2
) changed
ORDER BY changed_at, key LIMIT $3"""
_OPEN = """
SELECT h.key FROM generation_requests r JOIN holds h ON h.request_id = r.id
WHERE r.deadline_at IS NOT NULL AND h.funding = 'credits' AND h.began_at < $1
    AND h.state IN ('placing', 'held')
ORDER BY h.began_at, h.key LIMIT $2"""

_BOOKED = """
SELECT h.key, h.user_id, h.amount, h.action, h.state, h.request_id, h.began_at,
       (h.state IN ('captured', 'released') AND h.settled_at IS NULL) AS owed
FROM holds h"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedHold:
    """A hold that credits pay for; `owed`: resolved here, and the credit service is still to be
    told.
    """

    key: str
    user_id: str
    amount: int
    action: str
    state: str
    request_id: UUID
    began_at: datetime
    owed: bool

    def reservation(self) -> dict[str, Any]:
        """What the credit service needs to know of it."""
        return {
            "key": self.key,
            "user_id": self.user_id,
            "amount": self.amount,
            "action": self.action,
        }


class ReconciliationStore:
    """Reads holds in pages, and posts compensations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changed(
        self, since: datetime, until: datetime, most: int | None
    ) -> list[tuple[str, datetime]]:
        """Return key and time of the holds that began or were resolved in this time, oldest first;
        of one that was resolved only its resolution counts.
        """
        found = await self._database.fetch_report(_CHANGED, since, until, most)
        return [(row["key"], row["changed_at"]) for row in found]

    async def open_keys(self, until: datetime, most: int | None) -> list[str]:
        """Return the keys of open holds that began before `until`, oldest first."""
        return [row["key"] for row in await self._database.fetch_report(_OPEN, until, most)]

    async def holds(self, keys: Sequence[str]) -> AsyncIterator[list[BookedHold]]:
        """Read the holds of these keys, page by page."""
        for start in range(0, len(keys), _PAGE):
            yield await self.by_keys(keys[start : start + _PAGE])

    async def mark(self) -> datetime | None:
        """Return the time up to which holds have been compared; None before the first run."""
        found: datetime | None = await self._database.fetchval(
            "SELECT began_at FROM periodic_work WHERE name = $1", _MARK
        )
        return found

    async def move_mark(self, until: datetime) -> None:
        """Record that holds have been compared up to this time; it never moves back."""
        await self._database.execute(
            """INSERT INTO periodic_work AS p (name, began_at) VALUES ($1, $2)
               ON CONFLICT (name) DO UPDATE SET began_at = GREATEST(p.began_at, $2)""",
            _MARK,
            until,
        )

    async def by_keys(self, keys: Sequence[str]) -> list[BookedHold]:
        """The holds of these keys, as they are booked now."""
        found = await self._database.fetch(f"{_BOOKED} WHERE h.key = ANY($1::text[])", list(keys))
        return [BookedHold(**row) for row in found]

    async def post(
        self, topic: str, body: Mapping[str, Any], hold: BookedHold, *, by: str, now: datetime
    ) -> bool:
        """Queue for the credit service what it was never told.

        The hold's state is compared again in the statement, under the row's lock: what was found a
        moment ago may be true no longer. Returns False where the hold has changed since, or the
        message is queued already.
        """
        return bool(
            await self._database.fetchval(
                """WITH booked AS (
                       SELECT key FROM holds WHERE key = $5 AND state = $7 FOR UPDATE
                   ), posted AS (
                       INSERT INTO outbox (request_id, topic, body, due_at, created_at)
                       SELECT $1, $2, $3, $4, $4 FROM booked WHERE NOT EXISTS (
                           SELECT FROM outbox WHERE request_id = $1 AND topic = $2
                               AND body->>'key' = $5)
                       RETURNING id
                   ), entry AS (
                       INSERT INTO generation_events (request_id, event, data, at)
                       SELECT $1, 'compensation_posted', jsonb_build_object('topic', $2::text,
                           'hold', $5::text,
                                                                            'by', $6::text), $4
                                                                                FROM posted
                   )
                   SELECT count(*) FROM posted""",
                hold.request_id,
                topic,
                dict(body),
                now,
                hold.key,
                by,
                hold.state,
            )
        )

    async def free_counts_off(self, since: datetime, *, apply: bool) -> list[dict[str, Any]]:
        """Months since then whose count is not the number of allowances that are kept; `apply` sets
        the count right.
        """
        found = await self._database.fetch(
            """WITH off AS (
                   SELECT u.user_id, u.month, u.used, count(h.key)::int AS kept FROM free_usage u
                   LEFT JOIN holds h ON h.user_id = u.user_id AND h.month = u.month
                       AND h.funding = 'allowance'
                       AND h.state IN ('held', 'captured')
                   WHERE u.month >= date_trunc('month', $2::timestamptz AT TIME ZONE 'UTC')::date
                   GROUP BY u.user_id, u.month, u.used HAVING u.used <> count(h.key) LIMIT 1000
               ), mended AS (
                   UPDATE free_usage u SET used = off.kept FROM off
                   WHERE $1 AND u.user_id = off.user_id AND u.month = off.month
                       AND u.used = off.used
               )
               SELECT * FROM off""",
            apply,
            since,
        )
        return [dict(row) for row in found]

    async def keep_report(self, outcome: Mapping[str, Any], now: datetime) -> None:
        """Keep what the last comparison found, for operators to see; the one before it is
        forgotten.
        """
        await self._database.execute(
            """INSERT INTO periodic_work (name, began_at, outcome)
                VALUES ('reconciliation_report', $1, $2)
               ON CONFLICT (name) DO UPDATE SET began_at = $1, outcome = $2""",
            now,
            dict(outcome),
        )

    async def last_report(self) -> tuple[datetime, dict[str, Any]] | None:
        """When the last comparison was made, in any process, and what it found."""
        row = await self._database.fetchrow(
            "SELECT began_at, outcome FROM periodic_work WHERE name = 'reconciliation_report' AND"
            " outcome IS NOT NULL"
        )
        return (row["began_at"], row["outcome"]) if row else None

    async def take_turn(self, name: str, *, every_seconds: float, now: datetime) -> bool:
        """Whether this process does a piece of periodic work now; one of all processes in each
        period.
        """
        return bool(
            await self._database.fetchval(
                """INSERT INTO periodic_work AS p (name, began_at) VALUES ($1, $2)
                   ON CONFLICT (name) DO UPDATE SET began_at = $2
                   WHERE p.began_at <= $2 - make_interval(secs => $3) RETURNING 1""",
                name,
                now,
                every_seconds,
            )
        )
