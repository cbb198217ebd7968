"""Webhook endpoints: where a caller wants to be told, with the secrets that sign."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.webhooks import (
    SECRET_OVERLAP,
    DisabledReason,
    EndpointState,
)
from creativeflow.services.aigeneration.storage.database import Database

_PREVIOUS_KEPT = 3
"""Rotating again and again must not make the signature header grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """One row of `webhook_targets`; the secrets never show in its `repr`."""

    id: UUID
    owner: str
    url: str
    description: str | None
    state: EndpointState
    disabled_reason: DisabledReason | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    secret: str = field(repr=False)
    previous_secrets: Sequence[dict[str, str]] = field(repr=False)

    def secrets(self, now: datetime) -> list[str]:
        """What signs now: the current secret first, then those replaced less than a day ago."""
        return live_secrets(self.secret, self.previous_secrets, now)


@dataclass(frozen=True, slots=True)
class AddressTaken:
    """The owner has an endpoint with this URL already."""

    endpoint_id: UUID


@dataclass(frozen=True, slots=True)
class TooMany:
    """The owner has as many endpoints as are allowed."""


def live_secrets(secret: str, previous: Sequence[dict[str, str]], now: datetime) -> list[str]:
    """The current secret, and the replaced ones that still sign."""
    return [
        secret,
        *(old["secret"] for old in previous if datetime.fromisoformat(old["until"]) > now),
    ]


class WebhookEndpointStore:
    """Reads and writes endpoints. `owner` narrows to one caller's; None sees all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, endpoint: WebhookEndpoint, *, most: int
    ) -> WebhookEndpoint | AddressTaken | TooMany:
        """Write a new endpoint, unless the owner has this URL or `most` endpoints already; one at a
        time per owner.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtext('webhook_targets:' || $1))", endpoint.owner
            )
            known = await connection.fetch(
                "SELECT id, url FROM webhook_targets WHERE owner = $1", endpoint.owner
            )
            for row in known:
                if row["url"] == endpoint.url:
                    return AddressTaken(row["id"])
            if len(known) >= most:
                return TooMany()
            await connection.execute(
                """INSERT INTO webhook_targets (id, owner, url, description, secret, created_at,
                    updated_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $6)""",
                endpoint.id,
                endpoint.owner,
                endpoint.url,
                endpoint.description,
                endpoint.secret,
                endpoint.created_at,
            )
        return endpoint

    async def page(self, owner: str | None, most: int) -> list[WebhookEndpoint]:
        """The endpoints, the oldest first."""
        found = await self._database.fetch(
            "SELECT * FROM webhook_targets WHERE $1::text IS NULL OR owner = $1 ORDER BY"
            " created_at, id LIMIT $2",
            owner,
            most,
        )
        return [_endpoint(row) for row in found]

    async def find(self, endpoint_id: UUID, owner: str | None) -> WebhookEndpoint | None:
        """One endpoint."""
        row = await self._database.fetchrow(
            "SELECT * FROM webhook_targets WHERE id = $1 AND ($2::text IS NULL OR owner = $2)",
            endpoint_id,
            owner,
        )
        return _endpoint(row) if row else None

    async def owners(self) -> frozenset[str]:
        """Who has an endpoint that is sent to."""
        found = await self._database.fetch(
            "SELECT DISTINCT owner FROM webhook_targets WHERE state = 'enabled'"
        )
        return frozenset(row["owner"] for row in found)

    async def enable(self, endpoint_id: UUID, now: datetime) -> WebhookEndpoint | None:
        """Send to it again; failures of before are forgotten."""
        row = await self._database.fetchrow(
            """UPDATE webhook_targets SET state = 'enabled', disabled_reason = NULL,
                failing_since = NULL,
                      updated_at = CASE WHEN state = 'enabled' THEN updated_at ELSE $2 END
               WHERE id = $1 RETURNING *""",
            endpoint_id,
            now,
        )
        return _endpoint(row) if row else None

    async def disable(self, endpoint_id: UUID, reason: DisabledReason, now: datetime) -> int:
        """Send nothing to it any more; what is owed to it is given up, and stays in its log to be
        sent again.

        How many deliveries were given up; an attempt under way writes nothing, because its message
        is gone.
        """
        given_up = await self._database.fetchval(
            """WITH target AS (
                   UPDATE webhook_targets SET state = 'disabled', disabled_reason = $2,
                       updated_at = $3
                   WHERE id = $1 AND state = 'enabled'
               ), message AS (
                   DELETE FROM outbox WHERE topic = 'webhook:' || $1::uuid::text
                   RETURNING (body->>'event_id')::uuid AS event_id
               ), delivery AS (
                   UPDATE webhook_deliveries d SET state = 'failed', next_attempt_at = NULL,
                       updated_at = $3,
                          last_error = CASE WHEN d.state = 'parked' THEN d.last_error
                              ELSE 'endpoint_disabled' END
                   FROM message WHERE d.target_id = $1 AND d.event_id = message.event_id
               )
               SELECT count(*) FROM message""",
            endpoint_id,
            reason,
            now,
        )
        return int(given_up)

    async def delete(self, endpoint_id: UUID) -> None:
        """Forget it and what is owed to it; its log, which nobody can see any more, goes with
        age.
        """
        await self._database.execute(
            """WITH target AS (DELETE FROM webhook_targets WHERE id = $1)
               DELETE FROM outbox WHERE topic = 'webhook:' || $1::uuid::text""",
            endpoint_id,
        )

    async def rotate(self, endpoint_id: UUID, secret: str, now: datetime) -> WebhookEndpoint | None:
        """Sign with another secret from now on; what signed until now goes on beside it for a
        day.
        """
        row = await self._database.fetchrow(
            """UPDATE webhook_targets SET secret = $2, updated_at = $3, previous_secrets = (
                   SELECT COALESCE(jsonb_agg(kept.old ORDER BY kept.place), '[]') FROM (
                       SELECT old, place FROM jsonb_array_elements(
                           jsonb_build_array(jsonb_build_object('secret', secret, 'until',
                               $4::text))
                           || previous_secrets) WITH ORDINALITY AS all_of(old, place)
                       WHERE (old->>'until')::timestamptz > $3 ORDER BY place LIMIT $5) kept)
               WHERE id = $1 RETURNING *""",
            endpoint_id,
            secret,
            now,
            (now + SECRET_OVERLAP).isoformat(),
            _PREVIOUS_KEPT,
        )
        return _endpoint(row) if row else None


def _endpoint(row: Any) -> WebhookEndpoint:
    reason = row["disabled_reason"]
    return WebhookEndpoint(
        id=UUID(int=row["id"].int),
        owner=row["owner"],
        url=row["url"],
        description=row["description"],
        state=EndpointState(row["state"]),
        disabled_reason=DisabledReason(reason) if reason else None,
        failing_since=row["failing_since"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        secret=row["secret"],
        previous_secrets=row["previous_secrets"],
    )
