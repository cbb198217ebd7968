"""Webhook deliveries: the log and the outbox messages, leased by endpoint in the order of each
request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.webhooks import Attempt, DeliveryState
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.outbox import IN_ITS_TURN
from creativeflow.services.aigeneration.storage.webhook_endpoints import live_secrets

# An endpoint at which the last try failed is given one at a time: what is away costs one slot, not
# all of them.
_LEASE = f"""
WITH room AS (
    SELECT t.id, LEAST($6, CASE WHEN t.failing_since IS NULL THEN $7 ELSE 1 END
        - COALESCE(busy.count, 0)) AS room
    FROM webhook_targets t LEFT JOIN unnest($4::uuid[], $5::int[]) AS busy(id, count)
        ON busy.id = t.id
    WHERE t.state = 'enabled' ORDER BY random()
), due AS (
    SELECT next.id, room.id AS target_id FROM room CROSS JOIN LATERAL (
        SELECT o.id FROM outbox o
        WHERE o.topic = 'webhook:' || room.id::text AND o.topic LIKE 'webhook:%' AND o.parked_reason
            IS NULL
          AND o.due_at <= $2 AND (o.leased_until IS NULL OR o.leased_until <= $2)
          AND {IN_ITS_TURN}
        ORDER BY o.due_at, o.id LIMIT GREATEST(room.room, 0) FOR UPDATE SKIP LOCKED) next
    LIMIT $6
), leased AS (
    UPDATE outbox o SET lease_token = $1, leased_until = $3, attempts = attempts + 1 FROM due
        WHERE o.id = due.id
    RETURNING o.id, o.attempts, due.target_id, (o.body->>'event_id')::uuid AS event_id
)
SELECT leased.id, leased.attempts, leased.target_id, leased.event_id, d.request_id, d.type, d.body,
       t.url, t.secret, t.previous_secrets, t.failing_since
FROM leased JOIN webhook_targets t ON t.id = leased.target_id
     JOIN webhook_deliveries d ON d.target_id = leased.target_id AND d.event_id = leased.event_id
ORDER BY leased.id"""  # noqa: S608 - joined from constants

_LOGGED = """
    UPDATE webhook_deliveries d SET state = $5::text, attempts = d.attempts
        + 1, last_status = $6, last_error = $7,
        duration_ms = $8, updated_at = $9, next_attempt_at = $10::timestamptz,
        delivered_at = CASE WHEN $5 = 'delivered' THEN $9 ELSE d.delivered_at END
    FROM message WHERE d.target_id = $3 AND d.event_id = $4 RETURNING d.request_id, d.target_id,
        d.event_id, d.type"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueDelivery:
    """A delivery that is under way; `token` proves the lease, `tries` counts this attempt."""

    message_id: int
    token: UUID
    tries: int
    endpoint_id: UUID
    event_id: UUID
    request_id: UUID | None
    type: str
    body: str = field(repr=False)
    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    failing_since: datetime | None


class DeliveryStore:
    """Leases deliveries and writes their outcomes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lease(
        self,
        token: UUID,
        *,
        most: int,
        per_endpoint: int,
        busy: Mapping[UUID, int],
        now: datetime,
        lease_for: timedelta,
    ) -> list[DueDelivery]:
        """Lease up to `most` due deliveries, up to `per_endpoint` of each endpoint less what is
        `busy` there already.

        Events of one request are leased in their order at each endpoint: the next only when the one
        before is gone.
        """
        found = await self._database.fetch(
            _LEASE, token, now, now + lease_for, list(busy), list(busy.values()), most, per_endpoint
        )
        return [
            DueDelivery(
                message_id=row["id"],
                token=token,
                tries=row["attempts"],
                endpoint_id=UUID(int=row["target_id"].int),
                event_id=row["event_id"],
                request_id=row["request_id"],
                type=row["type"],
                body=row["body"],
                url=row["url"],
                secrets=live_secrets(row["secret"], row["previous_secrets"], now),
                failing_since=row["failing_since"],
            )
            for row in found
        ]

    async def delivered(self, due: DueDelivery, attempt: Attempt, now: datetime) -> bool:
        """Write that the event was delivered; return False if the lease was lost, then nothing
        is written.
        """
        return await self._settle(
            "DELETE FROM outbox WHERE id = $1 AND lease_token = $2 RETURNING id",
            due,
            attempt,
            now,
            DeliveryState.DELIVERED,
            endpoint="failing_since = NULL",
            event="webhook_delivered",
        )

    async def put_off(
        self, due: DueDelivery, attempt: Attempt, now: datetime, delay: timedelta
    ) -> bool:
        """Write that the delivery is retried after `delay`; return False if the lease was lost."""
        return await self._settle(
            """UPDATE outbox SET due_at = $10, lease_token = NULL, leased_until = NULL,
                last_error = $7
               WHERE id = $1 AND lease_token = $2 RETURNING id""",
            due,
            attempt,
            now,
            DeliveryState.PENDING,
            next_at=now + delay,
        )

    async def park(self, due: DueDelivery, attempt: Attempt, now: datetime, reason: str) -> bool:
        """Park the delivery for an operator; return False if the lease was lost."""
        return await self._settle(
            """UPDATE outbox SET parked_reason = $11, lease_token = NULL, leased_until = NULL,
                last_error = $7
               WHERE id = $1 AND lease_token = $2 RETURNING id""",
            due,
            attempt,
            now,
            DeliveryState.PARKED,
            event="webhook_parked",
            reason=reason,
        )

    async def fail(self, due: DueDelivery, attempt: Attempt, now: datetime) -> bool:
        """Write that the delivery failed for good; return False if the lease was lost."""
        return await self._settle(
            "DELETE FROM outbox WHERE id = $1 AND lease_token = $2 RETURNING id",
            due,
            attempt,
            now,
            DeliveryState.FAILED,
        )

    async def _settle(
        self,
        message: str,
        due: DueDelivery,
        attempt: Attempt,
        now: datetime,
        state: DeliveryState,
        *,
        endpoint: str = "failing_since = $9",
        event: str | None = None,
        next_at: datetime | None = None,
        reason: str | None = None,
    ) -> bool:
        """Write message, log, endpoint and timeline in one statement, if the message's lease
        still holds.
        """
        written = await self._database.fetchval(
            f"""WITH message AS ({message}), logged AS ({_LOGGED}), target AS (
                    UPDATE webhook_targets SET {endpoint} FROM message WHERE webhook_targets.id = $3
                        AND (failing_since IS NULL) <> ($7::text IS NULL)
                ), entry AS (
                    INSERT INTO generation_events (request_id, event, data, at)
                    SELECT request_id, $12, jsonb_strip_nulls(jsonb_build_object('endpoint_id',
                        target_id,
                               'event_id', event_id, 'event_type', type, 'reason', $11::text)), $9
                    FROM logged WHERE request_id IS NOT NULL AND $12::text IS NOT NULL
                )
                SELECT count(*) FROM message""",  # noqa: S608 - constants of this module
            due.message_id,
            due.token,
            due.endpoint_id,
            due.event_id,
            state,
            attempt.status,
            attempt.trouble,
            attempt.duration_ms,
            now,
            next_at,
            reason,
            event,
        )
        return bool(written)

    async def announce(
        self, endpoint_id: UUID, event_id: UUID, *, event_type: str, body: str, now: datetime
    ) -> None:
        """Schedule an event that belongs to no request for one endpoint."""
        await self._database.execute(
            """WITH logged AS (
                   INSERT INTO webhook_deliveries (target_id, event_id, type, body, created_at,
                       updated_at)
                   VALUES ($1, $2, $3, $4, $5, $5) RETURNING target_id, event_id, type
               )
               INSERT INTO outbox (topic, body, due_at, created_at)
               SELECT 'webhook:' || target_id, jsonb_build_object('event_id', event_id,
                   'event_type', type), $5, $5
               FROM logged""",
            endpoint_id,
            event_id,
            event_type,
            body,
            now,
        )

    async def redeliver(self, endpoint_id: UUID, event_id: UUID, *, by: str, now: datetime) -> bool:
        """Schedule a delivery again, with the stored body under the same id; return False if it
        is not in the log.

        A pending or parked delivery becomes due at once with its attempts counted anew; any other
        is independent of the order of its request. The timeline names the operator.
        """
        return bool(
            await self._database.fetchval(
                """WITH logged AS (
                       UPDATE webhook_deliveries SET state = 'pending', next_attempt_at = NULL,
                           updated_at = $3
                       WHERE target_id = $1 AND event_id = $2
                           RETURNING target_id, event_id, type, request_id
                   ), owed AS (
                       UPDATE outbox SET parked_reason = NULL, due_at = $3, attempts = 0
                       WHERE topic = 'webhook:' || $1::uuid::text
                           AND body->>'event_id' = $2::uuid::text RETURNING id
                   ), message AS (
                       INSERT INTO outbox (topic, body, due_at, created_at)
                       SELECT 'webhook:' || target_id,
                              jsonb_build_object('event_id', event_id, 'event_type', type), $3, $3
                       FROM logged WHERE NOT EXISTS (SELECT FROM owed)
                   ), entry AS (
                       INSERT INTO generation_events (request_id, event, data, at)
                       SELECT request_id, 'webhook_redelivered', jsonb_build_object('endpoint_id',
                           target_id,
                                  'event_id', event_id, 'event_type', type, 'by', $4::text), $3
                       FROM logged WHERE request_id IS NOT NULL
                   )
                   SELECT count(*) FROM logged""",
                endpoint_id,
                event_id,
                now,
                by,
            )
        )

    async def page(
        self, endpoint_id: UUID, *, state: str | None, most: int
    ) -> list[dict[str, Any]]:
        """Return the deliveries of one endpoint, newest first."""
        found = await self._database.fetch(
            """SELECT event_id, request_id, type, state, attempts, last_status, last_error,
                duration_ms,
                      next_attempt_at, created_at, updated_at, delivered_at
               FROM webhook_deliveries WHERE target_id = $1 AND ($2::text IS NULL OR state = $2)
               ORDER BY created_at DESC, event_id DESC LIMIT $3""",
            endpoint_id,
            state,
            most,
        )
        return [dict(row) for row in found]

    async def tidy(self, before: datetime, now: datetime) -> int:
        """Delete the deliveries that ended before, and fail those to endpoints that no longer
        exist; return the number of deleted ones.
        """
        await self._database.execute(
            """WITH message AS (
                   DELETE FROM outbox o WHERE o.topic LIKE 'webhook:%' AND o.parked_reason IS NULL
                       AND NOT EXISTS (
                       SELECT FROM webhook_targets t WHERE t.state = 'enabled'
                           AND t.id = substr(o.topic, 9)::uuid)
                   RETURNING substr(topic, 9)::uuid AS target_id,
                       (body->>'event_id')::uuid AS event_id
               )
               UPDATE webhook_deliveries d SET state = 'failed', last_error = 'endpoint_disabled',
                   updated_at = $1
               FROM message WHERE d.target_id = message.target_id
                   AND d.event_id = message.event_id""",
            now,
        )
        return await self._database.delete_in_batches(
            """DELETE FROM webhook_deliveries WHERE (target_id, event_id) IN (
                   SELECT target_id, event_id FROM webhook_deliveries
                   WHERE created_at < $1 AND (state IN ('delivered', 'failed') OR NOT EXISTS (
                       SELECT FROM webhook_targets t WHERE t.id = target_id))
                   ORDER BY created_at LIMIT $2)""",
            before,
        )
