"""The outbox: messages to other systems, leased one at a time, delivered, retried or parked.

An empty table means that nothing is undelivered. Rows are never polled by `id > last`, because ids
become visible out of order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.transitions import Topic
from creativeflow.services.aigeneration.storage.account_flags import (
    CHARGE_FAILED,
    RAISE,
    REFUND_FAILED,
)
from creativeflow.services.aigeneration.storage.batch_writer import LeasedMessage
from creativeflow.services.aigeneration.storage.database import Database


@dataclass(frozen=True, slots=True)
class Delivered:
    """The message was delivered."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Try again after `delay`, or after the usual back-off."""

    reason: str
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """Another attempt cannot help: an operator sees the reason and replays or drops the message."""

    reason: str


Outcome = Delivered | RetryLater | Parked

IN_ITS_TURN = """(o.request_id IS NULL OR o.id = (
    SELECT e.id FROM outbox e WHERE e.request_id = o.request_id AND e.topic = o.topic
        AND e.parked_reason IS NULL
    ORDER BY e.id LIMIT 1))"""
"""Messages of one request and topic are delivered in their order; those of no request have none.

Written as a lookup of the first one: with a test for an earlier one the planner compares all with
all.
"""

DEAD_LETTER = "dead_letter"
"""An unreadable message: parked from the start, and read once more when an operator replays it."""


class Outbox:
    """Leases messages to the relay, puts them off and parks them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lease(
        self, token: UUID, *, most: int, now: datetime, lease_for: timedelta, topics: Sequence[str]
    ) -> list[LeasedMessage]:
        """Lease up to `most` due messages of these topics.

        Messages of one request and topic are leased in their order: the next only when the one
        before it is gone.
        """
        found = await self._database.fetch(
            f"""UPDATE outbox SET lease_token = $1, leased_until = $4, attempts = attempts + 1
                WHERE id IN (
                   SELECT o.id FROM outbox o
                   WHERE o.parked_reason IS NULL AND o.due_at <= $3 AND o.topic = ANY($5)
                     -- Webhooks have an index, an order and a lease of their own.
                     AND o.topic NOT LIKE 'webhook:%'
                     AND (o.leased_until IS NULL OR o.leased_until <= $3)
                     AND {IN_ITS_TURN}
                   ORDER BY o.due_at, o.id LIMIT $2 FOR UPDATE OF o SKIP LOCKED)
               RETURNING id, request_id, topic, body, attempts, created_at""",  # noqa: S608 - a constant
            token,
            most,
            now,
            now + lease_for,
            list(topics),
        )
        leased = (LeasedMessage(token=token, **row) for row in found)
        return sorted(leased, key=lambda message: message.id)

    async def settle(
        self, message: LeasedMessage, outcome: RetryLater | Parked, *, now: datetime
    ) -> None:
        """Write the outcome of a message that was not delivered; a lease that was lost meanwhile
        writes nothing.
        """
        match outcome:
            case RetryLater():
                await self._put_off(message, outcome, now)
            case Parked():
                await self._park(message, outcome, now)

    async def _put_off(self, message: LeasedMessage, later: RetryLater, now: datetime) -> None:
        delay = later.delay or backoff(message.attempts)
        await self._database.execute(
            """UPDATE outbox SET due_at = $3, lease_token = NULL, leased_until = NULL,
                last_error = $4
               WHERE id = $1 AND lease_token = $2""",
            message.id,
            message.token,
            now + delay,
            later.reason[:500],
        )

    async def _park(self, message: LeasedMessage, parked: Parked, now: datetime) -> None:
        """Park a message; one to the credit service flags the account in the same statement
        (REQ-016).
        """
        await self._database.execute(
            f"""WITH parked AS (
                    UPDATE outbox SET parked_reason = $3, lease_token = NULL, leased_until = NULL,
                        last_error = $3
                    WHERE id = $1 AND lease_token = $2 RETURNING request_id, topic, body
                ), flag AS (
                    SELECT body->>'user_id' AS user_id, f.reason, body->>'key' AS hold_key,
                        request_id
                    FROM parked JOIN (VALUES ('{Topic.CAPTURE}', '{CHARGE_FAILED}'),
                                             ('{Topic.RELEASE}', '{REFUND_FAILED}')) AS f(topic,
                                                 reason) USING (topic)
                ), {RAISE.format(now="$4")}
                INSERT INTO generation_events (request_id, event, data, at)
                SELECT request_id, 'message_parked', jsonb_build_object('topic', topic, 'reason',
                    $3::text), $4
                FROM parked WHERE request_id IS NOT NULL""",  # noqa: S608 - joined from constants
            message.id,
            message.token,
            parked.reason[:500],
            now,
        )

    async def park_foreign(
        self,
        topic: str,
        body: dict[str, Any],
        *,
        reason: str,
        now: datetime,
        most: int | None = None,
    ) -> bool:
        """Park something that cannot be handled, such as an unreadable message.

        Returns False, and stores nothing, where `most` of the topic are parked already.
        """
        written = await self._database.execute_counted(
            """INSERT INTO outbox (topic, body, due_at, parked_reason, created_at)
               SELECT $1, $2, $4, $3, $4 WHERE $5::int IS NULL OR (
                   SELECT count(*) FROM (SELECT FROM outbox WHERE parked_reason IS NOT NULL
                       AND topic = $1 LIMIT $5) p
               ) < $5""",
            topic,
            body,
            reason[:500],
            now,
            most,
        )
        return bool(written)

    async def replay(self, message_id: int, *, by: str, now: datetime) -> bool:
        """Make a parked message due again; return False if there is no such parked message."""
        return await self._resolve_parked(
            """UPDATE outbox SET parked_reason = NULL, due_at = $2, attempts = 0, last_error = NULL
               WHERE id = $1 AND parked_reason IS NOT NULL RETURNING request_id, topic, body,
                   'pending' AS delivery""",
            "message_replayed",
            message_id,
            by,
            now,
        )

    async def drop(self, message_id: int, *, by: str, now: datetime) -> bool:
        """Delete a parked message for good; return False if there is no such parked message.

        A hold whose message is dropped is settled with it: the reconciliation reports the
        difference.
        """
        return await self._resolve_parked(
            """DELETE FROM outbox WHERE id = $1 AND parked_reason IS NOT NULL AND $2::timestamptz
                IS NOT NULL
               RETURNING request_id, topic, body, 'failed' AS delivery""",
            "message_dropped",
            message_id,
            by,
            now,
        )

    async def _resolve_parked(
        self, statement: str, event: str, message_id: int, by: str, now: datetime
    ) -> bool:
        return bool(
            await self._database.fetchval(
                f"""WITH resolved AS ({statement}), entry AS (
                        INSERT INTO generation_events (request_id, event, data, at)
                        SELECT request_id, $3, jsonb_build_object('topic', topic, 'by', $4::text),
                            $2
                        FROM resolved WHERE request_id IS NOT NULL
                    ), logged AS (
                        UPDATE webhook_deliveries d SET state = r.delivery, updated_at = $2
                        FROM resolved r WHERE r.topic LIKE 'webhook:%' AND r.topic = 'webhook:'
                            || d.target_id
                            AND d.event_id = (r.body->>'event_id')::uuid
                    ), settled AS (
                        UPDATE holds h SET settled_at = $2 FROM resolved r
                        WHERE r.delivery = 'failed' AND r.topic LIKE 'credits.%'
                            AND h.key = r.body->>'key')
                    SELECT count(*) FROM resolved""",  # noqa: S608 - joined from the two statements above
                message_id,
                now,
                event,
                by,
            )
        )

    async def replay_for(self, key: str, *, now: datetime) -> int:
        """Make the parked messages of one hold due again, after an operator has decided it."""
        return await self._database.execute_counted(
            """UPDATE outbox SET parked_reason = NULL, due_at = $2, attempts = 0, last_error = NULL
               WHERE topic LIKE 'credits.%' AND body->>'key' = $1 AND parked_reason IS NOT NULL""",
            key,
            now,
        )

    async def list_open(self, *, parked_only: bool, most: int) -> list[dict[str, Any]]:
        """Return open messages, oldest first."""
        found = await self._database.fetch(
            """SELECT id, request_id, topic, attempts, due_at, last_error, parked_reason, created_at
               FROM outbox WHERE NOT $1 OR parked_reason IS NOT NULL ORDER BY id LIMIT $2""",
            parked_only,
            most,
        )
        return [dict(row) for row in found]

    async def owed(self, most: int, request_id: UUID | None = None) -> list[dict[str, Any]]:
        """Return undelivered messages for display, oldest first: all parked ones, or all of one
        request.

        `about` is the topic without the endpoint of a webhook, whose URL is `endpoint`.
        """
        condition = "o.parked_reason IS NOT NULL"
        if request_id is not None:
            condition = (
                "(o.request_id = $2 AND o.parked_reason IS NULL OR o.request_id = $2 AND"
                " o.parked_reason IS NOT NULL)"
            )
        found = await self._database.fetch(
            f"""SELECT o.id, o.request_id, o.topic, split_part(o.topic, ':', 1) AS about,
                o.attempts, o.due_at,
                       o.last_error, o.parked_reason, o.created_at, o.body->>'key' AS key,
                       (o.body->>'amount')::int AS amount, o.body->>'user_id' AS user_id,
                       o.body->>'event_type' AS event_type, t.url AS endpoint
                FROM outbox o LEFT JOIN webhook_targets t
                     ON o.topic LIKE 'webhook:%' AND t.id::text = substr(o.topic, 9)
                WHERE {condition} ORDER BY o.id LIMIT $1""",  # noqa: S608 - one of the two conditions above
            most,
            *([request_id] if request_id is not None else []),
        )
        return [dict(row) for row in found]


def backoff(attempts: int) -> timedelta:
    """Return the wait before the next attempt: 0.5 s doubling to 5 minutes.

    Many attempts span days; no message is dropped silently.
    """
    return timedelta(seconds=min(300.0, 0.5 * 2 ** min(attempts - 1, 12)))
