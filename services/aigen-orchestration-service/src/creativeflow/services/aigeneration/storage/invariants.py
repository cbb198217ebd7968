"""The invariants: counts of what must never be, over what is open and what changed in a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from creativeflow.services.aigeneration.kit.clock import first_id, uuid7_time
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.request_sql import NEXT_LOOK
from creativeflow.services.aigeneration.storage.state_sets import SQL_WITH_JOB

_WINDOW = timedelta(hours=2)
"""The time that one statement checks: at the required load it takes seconds."""
_SEEN_AGAIN = {"balances_off_ledger", "free_usage_off_holds"}
"""Counts of accounts, which are checked in every window in which they changed."""

_OPEN = f"""
SELECT
    (SELECT count(*) FROM holds h JOIN generation_requests r ON r.id = h.request_id
     WHERE h.state = 'held' AND r.state NOT IN {SQL_WITH_JOB}
         AND r.deadline_at IS NOT NULL) AS holds_without_work,
    (SELECT count(*) FROM holds WHERE state = 'placing' AND parked_at IS NULL
        AND began_at < $1::timestamptz - interval '1 hour') AS holds_placing_too_long,
    (SELECT count(*) FROM holds WHERE state = 'placing' AND parked_at IS NOT NULL) AS holds_parked,
    (SELECT count(*) FROM outbox WHERE parked_reason IS NOT NULL
        AND topic NOT LIKE 'webhook:%') AS messages_parked,
    (SELECT count(*) FROM generation_requests r WHERE r.deadline_at < $1::timestamptz
        - interval '5 minutes'
        AND {NEXT_LOOK} < $1::timestamptz - interval '5 minutes') AS deadlines_missed
"""  # noqa: S608 - joined from constants

# $1 and $2 are the time, $3 and $4 the lowest ids of its beginning and its end.
_CHANGED = f"""
SELECT
    (SELECT count(*) FROM holds h JOIN generation_requests r ON r.id = h.request_id
     WHERE r.id >= $3 AND r.id < $4 AND r.deadline_at IS NULL
         AND h.state = 'held' AND r.state NOT IN {SQL_WITH_JOB}) AS holds_without_work,
    (SELECT count(*) FROM holds h JOIN generation_requests r ON r.id = h.request_id
     WHERE h.began_at >= $1 AND h.began_at < $2 AND h.state = 'captured' AND NOT CASE h.stage
         WHEN 'samples' THEN h.round <= (
             SELECT count(*) FROM generation_events e WHERE e.request_id = r.id
                 AND e.event IN ('samples_delivered', 'prompt_rejected'))
         ELSE r.final_asset IS NOT NULL END) AS captured_without_delivery,
    (SELECT count(*) FROM generation_requests r
     WHERE r.id >= $3 AND r.id < $4 AND r.final_asset IS NOT NULL AND EXISTS (
         SELECT FROM holds h WHERE h.request_id = r.id AND h.stage = 'final'
             AND h.state NOT IN ('captured', 'refused'))) AS delivered_without_capture,
    (SELECT count(*) FROM holds h WHERE h.began_at >= $1 AND h.began_at < $2
        AND h.state IN ('captured', 'released') AND h.funding = 'credits'
        AND h.settled_at IS NULL AND NOT EXISTS (
            SELECT FROM outbox o WHERE o.request_id = h.request_id AND o.topic LIKE 'credits.%'
            AND o.body->>'key' = h.key)) AS resolved_without_message,
    (SELECT count(*) FROM (
        SELECT operation FROM credit_entries WHERE at >= $1 AND at < $2
        GROUP BY operation HAVING sum(amount) <> 0) t) AS ledger_not_zero_sum,
    (SELECT count(*) FROM credit_accounts a
     WHERE (a.created_at >= $1 AND a.created_at < $2 OR 'user:' || a.user_id IN (
             SELECT account FROM credit_entries WHERE at >= $1 AND at < $2))
         AND a.balance <> (SELECT COALESCE(sum(e.amount), 0) FROM credit_entries e
                           WHERE e.account = 'user:' || a.user_id)) AS balances_off_ledger,
    (SELECT count(*) FROM free_usage u
     WHERE (u.month >= $1::date AND u.month < $2::date OR u.user_id IN (
             SELECT user_id FROM holds WHERE funding = 'allowance'
                 AND began_at >= $1 AND began_at < $2))
         AND u.used <> (SELECT count(*) FROM holds h WHERE h.user_id = u.user_id
                        AND h.month = u.month AND h.funding = 'allowance'
                        AND h.state IN ('held', 'captured'))) AS free_usage_off_holds,
    (SELECT count(*) FROM generation_requests r
     WHERE r.id >= $3 AND r.id < $4 AND r.deadline_at IS NULL
        AND NOT EXISTS (SELECT FROM outbox o WHERE o.request_id = r.id
            AND o.topic = 'notification.send')
        AND NOT EXISTS (SELECT FROM generation_events e WHERE e.request_id = r.id
                        AND (e.event = 'message_dropped' OR (e.event = 'notification_sent'
                            AND e.data->>'event_type' IN (
                            'final_asset_ready', 'generation_failed', 'generation_cancelled',
                                'generation_expired'))))) AS ended_unannounced
"""  # noqa: S608 - joined from constants


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantReport:
    """The counts of a look at the invariants; all are 0 in a healthy service."""

    counts: Mapping[str, int]
    at: datetime


class Invariants:
    """Counts the invariants, and keeps the counts of the last look of any process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, now: datetime, since: datetime | None = None) -> dict[str, int]:
        """Count what is open now, and what began or changed since then; since the first request if
        that is later or not given.

        What has ended never changes again: a look at a time each hour misses nothing.
        """
        found = dict((await self._database.fetch_report(_OPEN, now))[0])
        # One window needs no look at the oldest row, which reads the accounts.
        if since is None or now - since > _WINDOW:
            oldest = await self._oldest(now)
            start = max(since, oldest) if since else oldest
        else:
            start = since
        while True:
            until = min(start + _WINDOW, now + _WINDOW)
            _add(found, await self._count_window(start, until))
            if until > now:
                return {name: int(count) for name, count in found.items()}
            start = until

    async def last(self) -> dict[str, int]:
        """Return the highest count of the last looks of any process, by invariant."""
        rows = await self._database.fetch(
            "SELECT outcome FROM periodic_work WHERE name = ANY($1::text[])",
            ["invariants_recent", "invariants_all"],
        )
        found: dict[str, int] = {}
        for row in rows:
            for name, count in (row["outcome"] or {}).get("counts", {}).items():
                found[name] = max(found.get(name, 0), count)
        return found

    async def keep(self, name: str, counts: Mapping[str, int], now: datetime) -> None:
        """Keep the counts of a look, for the metrics of all processes."""
        await self._database.execute(
            """INSERT INTO periodic_work (name, began_at, outcome) VALUES ($1, $2, $3)
               ON CONFLICT (name) DO UPDATE SET began_at = $2, outcome = $3""",
            name,
            now,
            {"counts": dict(counts)},
        )

    async def _oldest(self, now: datetime) -> datetime:
        oldest = await self._database.fetchrow(
            """SELECT (SELECT id FROM generation_requests ORDER BY id LIMIT 1) AS request,
                      (SELECT min(created_at) FROM credit_accounts) AS account,
                      (SELECT min(month)::timestamptz FROM free_usage) AS month"""
        )
        assert oldest is not None  # noqa: S101 - a select without a table has one row
        request = uuid7_time(oldest["request"]) if oldest["request"] else now
        return min(request, oldest["account"] or now, oldest["month"] or now)

    async def _count_window(self, since: datetime, until: datetime) -> Mapping[str, Any]:
        found = await self._database.fetch_report(
            _CHANGED, since, until, first_id(since), first_id(until)
        )
        return dict(found[0])


def _add(total: dict[str, Any], window: Mapping[str, Any]) -> None:
    for name, count in window.items():
        before = total.get(name, 0)
        total[name] = max(before, count) if name in _SEEN_AGAIN else before + count
