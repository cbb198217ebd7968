"""What was set aside, taken, given back and used, as an operator and an accountant read it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.storage.database import Database

_PAGE = 1000

# A hold is two movements: what left the balance when it was set aside, and what came back or stayed
# away.
_MOVEMENTS = """
SELECT * FROM (
    SELECT h.key AS operation, m.kind, m.amount, h.action AS reason, m.at, h.request_id, h.stage,
        h.round
    FROM holds h, LATERAL (VALUES
        ('hold', -h.amount, h.began_at, h.state IN ('held', 'captured', 'released')),
        ('capture', 0, h.resolved_at, h.state = 'captured'),
        ('release', h.amount, h.resolved_at, h.state = 'released'),
        ('in doubt', 0, h.began_at, h.state = 'placing')) AS m(kind, amount, at, there)
    WHERE h.user_id = $1 AND h.funding = 'credits' AND m.there
    UNION ALL
    SELECT substr(e.operation, 7), e.kind, e.amount, e.reason, e.at, NULL, NULL, NULL
    FROM credit_entries e WHERE e.account = 'user:' || $1 AND e.kind = 'grant'
) movements ORDER BY at DESC, kind, operation LIMIT $2 OFFSET $3"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which rows of the usage log: from `since` to before `until`, of a user, of a project."""

    since: datetime
    until: datetime
    user_id: str | None = None
    project_id: str | None = None


class Accounting:
    """Reads of money; each row is written by the change that caused it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def movements(self, user_id: str, most: int = 200, skip: int = 0) -> list[dict[str, Any]]:
        """The movements of a user's credits that we caused, each with its request and reason,
        newest first.

        `amount` in 1/100 credit as it changes what the user can spend: a capture takes what was set
        aside before.
        """
        return [dict(row) for row in await self._database.fetch(_MOVEMENTS, user_id, most, skip)]

    async def held_amount(self, user_id: str) -> int:
        """What is set aside for work that is not finished, in 1/100 credit."""
        return int(
            await self._database.fetchval(
                """SELECT COALESCE(sum(amount), 0) FROM holds
                   WHERE user_id = $1 AND state = 'held' AND funding = 'credits'""",
                user_id,
            )
        )

    async def parked_holds(self, most: int) -> list[dict[str, Any]]:
        """Holds that wait for a person to say what became of them, the oldest first."""
        found = await self._database.fetch(
            """SELECT key, request_id, user_id, action, amount, parked_at, parked_reason FROM holds
               WHERE state = 'placing' AND parked_at IS NOT NULL ORDER BY parked_at LIMIT $1""",
            most,
        )
        return [dict(row) for row in found]

    async def holds_of(self, request_id: UUID) -> list[dict[str, Any]]:
        """Everything that was ever set aside for one request, with the time of each step, oldest
        first.
        """
        found = await self._database.fetch(
            """SELECT key, stage, round, action, funding, amount, month, state, began_at,
                resolved_at, settled_at,
                      parked_at, parked_reason
               FROM holds WHERE request_id = $1 ORDER BY began_at, key""",
            request_id,
        )
        return [dict(row) for row in found]

    async def open_holds(self, user_id: str, most: int) -> list[dict[str, Any]]:
        """What is set aside for a user now, or being asked for, oldest first."""
        found = await self._database.fetch(
            """SELECT key, request_id, stage, round, action, funding, amount, state, began_at,
                parked_at FROM holds
               WHERE user_id = $1 AND state IN ('held', 'placing') ORDER BY began_at LIMIT $2""",
            user_id,
            most,
        )
        return [dict(row) for row in found]

    async def used(self, user_id: str, since: datetime) -> list[dict[str, Any]]:
        """What a user has used since then, by action and by what paid for it."""
        found = await self._database.fetch(
            """SELECT action, paid_by, count(*) AS count, sum(amount)::bigint AS amount
                FROM usage_log
               WHERE user_id = $1 AND at >= $2 GROUP BY action, paid_by ORDER BY action, paid_by""",
            user_id,
            since,
        )
        return [dict(row) for row in found]

    async def usage(self, wanted: UsageFilter) -> AsyncIterator[dict[str, Any]]:
        """One row for each chargeable action that took place, oldest first, however many there
        are.
        """
        after: tuple[datetime, int] = (wanted.since, 0)
        while True:
            found = await self._database.fetch(
                """SELECT id, at, user_id, project_id, request_id, stage, round, action, paid_by,
                    amount, plan, model
                   FROM usage_log WHERE (at, id) > ($1, $2) AND at < $3
                     AND ($4::text IS NULL OR user_id = $4) AND ($5::text IS NULL
                         OR project_id = $5)
                   ORDER BY at, id LIMIT $6""",
                *after,
                wanted.until,
                wanted.user_id,
                wanted.project_id,
                _PAGE,
            )
            for row in found:
                yield dict(row)
            if len(found) < _PAGE:
                return
            after = (found[-1]["at"], found[-1]["id"])

    async def forget_usage(self, before: datetime) -> int:
        """Delete rows of the usage log from before; return their number."""
        return await self._database.delete_in_batches(
            "DELETE FROM usage_log WHERE id IN (SELECT id FROM usage_log WHERE at < $1 LIMIT $2)",
            before,
        )
