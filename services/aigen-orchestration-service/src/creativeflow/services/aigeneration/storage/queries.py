"""Everything that is only read: one request, lists, timelines, what an operator wants to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.stalled_workers import LaneWork
from creativeflow.services.aigeneration.domain.timeline import merge_repeats
from creativeflow.services.aigeneration.kit.clock import first_id
from creativeflow.services.aigeneration.storage import request_rows
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.request_sql import NEXT_LOOK, SELECT_REQUEST
from creativeflow.services.aigeneration.storage.state_sets import SQL_AT_WORK, SQL_WITH_JOB

QUEUE_POSITION_MAX = 10_000
"""Positions are counted up to here, so that a look at one request costs the same in any queue."""
_DRIFT_SECONDS = 60
"""How far a request's id and its `created_at` may be apart: a clock can be set between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which requests a list shows; `before` is the id where the page before it ended."""

    user_id: str | None = None
    project_id: str | None = None
    states: Sequence[str] = ()
    created_from: datetime | None = None
    created_to: datetime | None = None
    before: UUID | None = None


class Queries:
    """Reads; each is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(self, request_id: UUID) -> GenerationRequest | None:
        """One request with its holds."""
        row = await self._database.fetchrow(f"{SELECT_REQUEST} WHERE r.id = $1", request_id)
        return request_rows.to_request(row) if row else None

    async def requests(self, ids: Sequence[UUID]) -> list[GenerationRequest]:
        """Several requests with their holds, in no order."""
        found = await self._database.fetch(
            f"{SELECT_REQUEST} WHERE r.id = ANY($1::uuid[])", list(ids)
        )
        return [request_rows.to_request(row) for row in found]

    async def queue_position(self, request: GenerationRequest) -> int | None:
        """How many jobs of its lane go first, plus one; None when it does not wait."""
        if request.state is not State.PENDING or request.fair_at is None:
            return None
        ahead = await self._database.fetchval(
            """SELECT count(*) FROM (SELECT FROM generation_requests WHERE state = 'PENDING'
                AND stage = $1
                   AND (fair_at, id) < ($2, $3) LIMIT $4) ahead""",
            request.stage,
            request.fair_at,
            request.id,
            QUEUE_POSITION_MAX,
        )
        return int(ahead) + 1

    async def page(self, filters: Filters, most: int) -> list[GenerationRequest]:
        """The newest requests that fit, newest first; ids are time-ordered, so they are the order.

        A time is looked for by the ids born around it: the walk begins there and not at the newest
        of all.
        """
        wanted: list[str] = []
        arguments: list[Any] = []
        for condition, value in (
            ("r.user_id = ${}", filters.user_id),
            ("r.project_id = ${}", filters.project_id),
            ("r.state = ANY(${}::text[])", list(filters.states) or None),
            ("r.created_at >= ${}", filters.created_from),
            ("r.created_at < ${}", filters.created_to),
            (
                "r.id >= ${}",
                filters.created_from and first_id(filters.created_from, -_DRIFT_SECONDS),
            ),
            ("r.id < ${}", filters.created_to and first_id(filters.created_to, _DRIFT_SECONDS)),
            ("r.id < ${}", filters.before),
        ):
            if value is not None:
                arguments.append(value)
                wanted.append(condition.format(len(arguments)))
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        arguments.append(most)
        found = await self._database.fetch(
            f"{SELECT_REQUEST} {where} ORDER BY r.id DESC LIMIT ${len(arguments)}", *arguments
        )
        return [request_rows.to_request(row) for row in found]

    async def free_used(self, user_id: str, now: datetime) -> int:
        """How many of the month's free generations a user has used."""
        month = now.date().replace(day=1)
        return int(
            await self._database.fetchval(
                "SELECT COALESCE((SELECT used FROM free_usage WHERE user_id = $1 AND month ="
                " $2), 0)",
                user_id,
                month,
            )
        )

    async def timeline(self, request_id: UUID, most: int = 1000) -> list[dict[str, Any]]:
        """State, money, broker, callbacks and notifications of one request in one list, oldest
        first: the newest entries, and runs of one event as one.
        """
        found = await self._database.fetch(
            """SELECT seq, at, event, state, version, data FROM generation_events
               WHERE request_id = $1 ORDER BY seq DESC LIMIT $2""",
            request_id,
            most,
        )
        return merge_repeats(dict(row) for row in reversed(found))

    async def versions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """The current version of each request: what the stream asks for."""
        found = await self._database.fetch(
            "SELECT id, version FROM generation_requests WHERE id = ANY($1::uuid[])", list(ids)
        )
        return {UUID(int=row["id"].int): row["version"] for row in found}

    async def stuck(self, now: datetime, most: int) -> list[GenerationRequest]:
        """Requests whose deadline or lease passed more than a minute ago and that nobody has moved
        on.
        """
        late = now - timedelta(minutes=1)
        found = await self._database.fetch(
            f"""{SELECT_REQUEST} WHERE r.deadline_at IS NOT NULL AND {NEXT_LOOK} < $1
                AND LEAST(r.deadline_at, r.lease_until) < $1 ORDER BY r.updated_at LIMIT $2""",
            late,
            most,
        )
        return [request_rows.to_request(row) for row in found]

    async def in_review(self, most: int) -> list[GenerationRequest]:
        """Requests whose prompt waits for a person, the oldest first."""
        found = await self._database.fetch(
            f"""{SELECT_REQUEST} WHERE r.state = 'VALIDATING_CREDITS' AND r.pending_action
                IS NOT NULL
                ORDER BY r.id LIMIT $1""",
            most,
        )
        return [request_rows.to_request(row) for row in found]

    async def lanes(self) -> list[dict[str, Any]]:
        """How many jobs wait and are in flight, by lane, and since when the oldest waits."""
        found = await self._database.fetch(f"""SELECT l.lane, l.virtual_time,
                      count(r.id) FILTER (WHERE r.state = 'PENDING') AS waiting,
                      count(r.id) FILTER (WHERE r.state <> 'PENDING') AS in_flight,
                      min(r.updated_at) FILTER (WHERE r.state = 'PENDING') AS oldest_waiting_since
               FROM lanes l LEFT JOIN generation_requests r ON r.stage = l.lane AND r.state IN
                   {SQL_WITH_JOB}
               GROUP BY l.lane ORDER BY l.lane""")  # noqa: S608 - constants
        return [dict(row) for row in found]

    async def lane_work(self) -> list[LaneWork]:
        """Of the jobs which the broker has: those nobody has spoken of, and those that were begun,
        by lane.
        """
        found = await self._database.fetch(f"""SELECT stage,
                      count(*) FILTER (WHERE progress IS NULL) AS unreported,
                      min(updated_at) FILTER (WHERE progress IS NULL) AS unreported_since,
                      count(*) FILTER (WHERE progress IS NOT NULL) AS silent,
                      min(updated_at) FILTER (WHERE progress IS NOT NULL) AS silent_since
               FROM generation_requests WHERE state IN {SQL_AT_WORK} GROUP BY stage""")  # noqa: S608 - constants
        return [
            LaneWork(
                lane=Stage(row["stage"]),
                unreported=row["unreported"],
                unreported_since=row["unreported_since"],
                silent=row["silent"],
                silent_since=row["silent_since"],
            )
            for row in found
        ]

    async def messages(self) -> dict[str, int]:
        """How many messages are open, and how many of them are parked; events for callers' own
        receivers apart.
        """
        row = await self._database.fetchrow(
            """SELECT count(*) FILTER (WHERE NOT hook) AS open, count(*) FILTER (WHERE NOT hook
                AND parked) AS parked,
                      count(*) FILTER (WHERE hook) AS webhooks,
                      count(*) FILTER (WHERE hook AND parked) AS webhooks_parked
               FROM (SELECT topic LIKE 'webhook:%' AS hook, parked_reason IS NOT NULL AS parked
                   FROM outbox) messages"""
        )
        return dict(row) if row else {}

    async def revision(self) -> str | None:
        """The schema revision of the database; None before the first migration."""
        if await self._database.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        found: str | None = await self._database.fetchval("SELECT version_num FROM alembic_version")
        return found

    async def takes_writes(self) -> bool:
        """Whether the server takes writes: it is no standby, and not set to read-only."""
        return bool(
            await self._database.fetchval(
                "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') ="
                " 'off'"
            )
        )

    async def server_version(self) -> str:
        """The version of the database server."""
        return str(await self._database.fetchval("SHOW server_version"))
