"""Write changes and load requests: the one door to state and credits, one statement per change.

A change is written whole or not at all: request, timeline, holds, messages, idempotency key. The
version decides: a write that expects another version writes nothing and reports it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import structlog

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import GenerationRequest, Hold, HoldState
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    OutboxMessage,
    StateChange,
    TimelineEntry,
    Topic,
)
from creativeflow.services.aigeneration.storage import request_rows, request_sql
from creativeflow.services.aigeneration.storage.account_flags import HOLD_UNDECIDED, RAISE
from creativeflow.services.aigeneration.storage.batch_writer import BatchWriter, WriteResult
from creativeflow.services.aigeneration.storage.database import Database, to_json
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit
from creativeflow.services.aigeneration.storage.state_sets import SQL_IN_FLIGHT

log = structlog.get_logger(__name__)

NOTES_MAX = 50
MONTHS_AHEAD = 12
"""Partitions of the timeline that are created ahead: a backup or a missing right may delay one
for a year before it matters.
"""
_TURNS = 3
"""How often a dispatcher reads a lane again when another one has just leased from it."""


class KeyTakenError(Exception):
    """The claimed idempotency key exists already; nothing was written."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The stored response of an idempotency key; `status` is None while its action has no
    response yet.
    """

    fingerprint: str
    request_id: UUID
    status: int | None
    body: str | None
    location: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LeasedJobs:
    """Leased jobs; `window_full`: others wait until a job of the lane is finished."""

    jobs: list[GenerationRequest]
    window_full: bool = False


class RequestStore:
    """Requests, timelines, holds and outbox messages in one database."""

    def __init__(self, database: Database, writer: BatchWriter, *, batch_size: int = 64) -> None:
        self._database = database
        self._writer = writer
        self._loads = GroupCommit(
            self._load_many, key=lambda request_id: request_id, max_size=batch_size
        )

    async def write(self, change: StateChange) -> WriteResult:
        """Write one change, in a batch with others that wait at the same moment.

        Raises:
            KeyTakenError: the change claims an idempotency key that is already there; nothing was
            written. StorageUnavailableError: nobody knows whether it was written.
        """
        written = await self._writer.write(change)
        if written is WriteResult.KEY_USED:
            raise KeyTakenError
        return written

    async def write_moves(self, changes: Sequence[StateChange]) -> list[bool]:
        """Write many changes of different requests as one statement; return for each whether it
        was written.
        """
        return [result is WriteResult.YES for result in await self._writer.write_all(changes)]

    async def load(self, request_id: UUID) -> GenerationRequest | None:
        """Load a request with its holds, as last committed."""
        return await self._loads.submit(request_id)

    async def answer(self, principal: str, key: str) -> StoredResponse | None:
        """Return the stored response of an idempotency key."""
        row = await self._database.fetchrow(
            """SELECT fingerprint, request_id, status, body, location, created_at
               FROM idempotency_keys WHERE principal = $1 AND key = $2""",
            principal,
            key,
        )
        return StoredResponse(**row) if row else None

    async def complete_key(self, request_id: UUID, answer: ApiResponse) -> None:
        """Store the response under the key that was claimed for this request, if it has none
        yet.
        """
        await self._database.execute(
            """UPDATE idempotency_keys SET status = $2, location = $3, body = $4
               WHERE request_id = $1 AND status IS NULL""",
            request_id,
            answer.status,
            answer.location,
            to_json(answer.body),
        )

    async def lease_jobs(
        self,
        lane: Stage,
        *,
        window: int,
        most: int,
        per_user: Mapping[str, int],
        now: datetime,
        lease: Callable[[GenerationRequest], StateChange],
    ) -> LeasedJobs:
        """Lease the next jobs of a lane in fair order, at most `most` and never more than the
        window allows.

        `per_user`: how many jobs of one user may be in the lane at once, by plan; further ones wait
        without blocking those of other users. Any number of dispatchers may call this. A lane
        counts its turns: a dispatcher that has read the lane takes the next turn with its write,
        and with a turn that another one has taken meanwhile nothing is written. So the window is
        exact.
        """
        for _ in range(_TURNS):
            found = await self._database.fetch(
                request_sql.LEASABLE, lane, now, window, most, dict(per_user)
            )
            if not found:
                return LeasedJobs([], window_full=await self._some_wait(lane, now))
            changes = [lease(request_rows.to_request(row)) for row in found]
            in_order = sorted(changes, key=lambda change: change.after.id)
            payload = [request_rows.from_job_move(change) for change in in_order]
            reached = max(row["fair_at"] for row in found)
            taken = await self._database.fetch(
                request_sql.LEASE, payload, lane, found[0]["turn"], reached
            )
            if taken:
                written = {row["id"] for row in taken}
                return LeasedJobs(
                    [change.after for change in changes if change.after.id in written],
                    window_full=found[0]["waiting"] > len(found),
                )
        return LeasedJobs([])

    async def _some_wait(self, lane: Stage, now: datetime) -> bool:
        return bool(
            await self._database.fetchval(
                """SELECT EXISTS (SELECT FROM generation_requests
                                  WHERE state = 'PENDING' AND stage = $1 AND due_at <= $2)""",
                lane,
                now,
            )
        )

    async def due(self, now: datetime, most: int) -> list[GenerationRequest]:
        """Return requests whose deadline, lease or reminder has passed, the longest overdue
        first.
        """
        found = await self._database.fetch(
            f"""{request_sql.SELECT_REQUEST} WHERE r.deadline_at IS NOT NULL
                AND {request_sql.NEXT_LOOK} <= $1
                ORDER BY {request_sql.NEXT_LOOK} LIMIT $2""",
            now,
            most,
        )
        return [request_rows.to_request(row) for row in found]

    async def unsettled_holds(self, before: datetime, most: int) -> list[tuple[UUID, str]]:
        """Return request and key of holds that have been `placing` since `before`: their callers
        are gone or got no answer.
        """
        found = await self._database.fetch(
            """SELECT request_id, key FROM holds WHERE state = 'placing' AND parked_at IS NULL
                AND began_at <= $1
               ORDER BY began_at LIMIT $2""",
            before,
            most,
        )
        return [(row["request_id"], row["key"]) for row in found]

    async def give_back_late(
        self, hold: Hold, request: GenerationRequest, *, held: bool, now: datetime
    ) -> bool:
        """Resolve a `placing` hold whose request ended meanwhile; if it turns out to be held,
        release it.

        Returns False if it is resolved already.
        """
        entry = TimelineEntry(
            "credits_released_late" if held else "credits_not_held", None, {"hold": hold.key}
        )
        messages = [OutboxMessage(Topic.RELEASE, hold.reservation(request.user_id))] if held else []
        return bool(
            await self._database.fetchval(
                """WITH hold AS (
                       UPDATE holds SET state = $3, resolved_at = $2 WHERE key = $1
                           AND state = 'placing' RETURNING key
                   ), entry AS (
                       INSERT INTO generation_events (request_id, event, data, at)
                       SELECT $4, $5, $6::jsonb, $2 FROM hold
                   ), message AS (
                       INSERT INTO outbox (request_id, topic, body, due_at, created_at)
                       SELECT $4, d->>'topic', d->'body', $2, $2
                           FROM hold, jsonb_array_elements($7::jsonb) d
                   )
                   SELECT count(*) FROM hold""",
                hold.key,
                now,
                HoldState.RELEASED if held else HoldState.REFUSED,
                request.id,
                entry.event,
                entry.data,
                [{"topic": d.topic, "body": d.body} for d in messages],
            )
        )

    async def give_back_refused(
        self, hold: Hold, request: GenerationRequest, *, now: datetime
    ) -> bool:
        """Release a hold that was accepted after it had been written as refused: two processes
        asking with one key can meet so.

        The state is checked in the statement. Returns False if the hold is not refused or its
        release is queued.
        """
        return bool(
            await self._database.fetchval(
                """WITH hold AS (
                       SELECT key FROM holds WHERE key = $1 AND state = 'refused' FOR UPDATE
                   ), message AS (
                       INSERT INTO outbox (request_id, topic, body, due_at, created_at)
                       SELECT $2, $3, $4::jsonb, $5, $5 FROM hold WHERE NOT EXISTS (
                           SELECT FROM outbox WHERE request_id = $2 AND topic = $3
                               AND body->>'key' = $1)
                       RETURNING id
                   ), entry AS (
                       INSERT INTO generation_events (request_id, event, data, at)
                       SELECT $2, 'credits_released_late', jsonb_build_object('hold', $1::text), $5
                           FROM message
                   )
                   SELECT count(*) FROM message""",
                hold.key,
                request.id,
                Topic.RELEASE,
                hold.reservation(request.user_id),
                now,
            )
        )

    async def park_hold(self, hold: Hold, *, reason: str, now: datetime) -> bool:
        """Park a `placing` hold whose outcome the credit service cannot tell.

        The account is flagged and its user notified in the same statement. Returns False if it is
        parked already, or no longer in doubt.
        """
        return bool(
            await self._database.fetchval(
                f"""WITH parked AS (
                        UPDATE holds SET parked_at = $2, parked_reason = $3
                        WHERE key = $1 AND state = 'placing' AND parked_at IS NULL
                            RETURNING key, user_id, request_id
                    ), entry AS (
                        INSERT INTO generation_events (request_id, event, data, at)
                        SELECT request_id, 'hold_parked', jsonb_build_object('hold', key, 'reason',
                            $3::text), $2
                        FROM parked
                    ), flag AS (
                        SELECT user_id, $4::text AS reason, key AS hold_key, request_id FROM parked
                    ), {RAISE.format(now="$2")}
                    SELECT count(*) FROM parked""",  # noqa: S608 - joined from constants
                hold.key,
                now,
                reason[:500],
                HOLD_UNDECIDED,
            )
        )

    async def unpark_hold(self, key: str, *, by: str, charged: bool, now: datetime) -> UUID | None:
        """Unpark a hold after an operator has decided it; return its request, or None if
        unknown.
        """
        found = await self._database.fetchval(
            """WITH taken AS (
                   UPDATE holds SET parked_at = NULL, parked_reason = NULL
                   WHERE key = $1 AND parked_at IS NOT NULL RETURNING key, request_id
               ), entry AS (
                   INSERT INTO generation_events (request_id, event, data, at)
                   SELECT request_id, 'hold_decided', jsonb_build_object('hold', key, 'by',
                       $2::text,
                                                                         'charged', $3::boolean), $4
                                                                             FROM taken
               )
               SELECT request_id FROM taken""",
            key,
            by,
            charged,
            now,
        )
        return UUID(int=found.int) if found else None

    async def hold(self, key: str) -> tuple[UUID, Hold] | None:
        """Return a hold by its key, with the request it belongs to."""
        row = await self._database.fetchrow("SELECT * FROM holds WHERE key = $1", key)
        return (UUID(int=row["request_id"].int), request_rows.to_hold(dict(row))) if row else None

    async def is_in_flight(self, job_id: UUID) -> bool:
        """Return whether this is the job of a request that is in flight; looks at the lanes'
        windows.
        """
        return bool(
            await self._database.fetchval(
                f"""SELECT EXISTS (SELECT FROM generation_requests
                    WHERE stage = ANY($2::text[]) AND state IN {SQL_IN_FLIGHT} AND job_id = $1)""",  # noqa: S608 - a constant
                job_id,
                list(Stage),
            )
        )

    async def append_timeline(self, request_id: UUID, entry: TimelineEntry, now: datetime) -> None:
        """Append a timeline entry without a transition: evidence, such as a result that came too
        late.

        Of one kind only so many are stored: a repeated report does not fill the timeline.
        """
        await self._database.execute(
            """INSERT INTO generation_events (request_id, event, data, at) SELECT $1, $2, $3, $4
               WHERE (SELECT count(*) FROM generation_events WHERE request_id = $1
                   AND event = $2) < $5""",
            request_id,
            entry.event,
            entry.data,
            now,
            NOTES_MAX,
        )

    async def forget_old_keys(self, before: datetime) -> int:
        """Delete idempotency keys older than `before`; return their number."""
        return await self._database.delete_in_batches(
            """DELETE FROM idempotency_keys WHERE (principal, key) IN (
                   SELECT principal, key FROM idempotency_keys WHERE created_at < $1 LIMIT $2)""",
            before,
        )

    async def prepare_months(self, now: datetime) -> int:
        """Create the timeline's partitions of this month and the next twelve; return how many
        exist.

        Never waits for long: a month whose lock is not granted at once, as beside a backup, is
        created by a later call. Until its partition exists, a month's entries go to the default
        partition.
        """
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        for ready in range(MONTHS_AHEAD + 1):
            following = (month + timedelta(days=32)).replace(day=1)
            try:
                await self._database.execute(
                    "SELECT ensure_events_partition($1, $2)", month.date(), following.date()
                )
            except (asyncpg.LockNotAvailableError, asyncpg.InsufficientPrivilegeError) as error:
                log.warning(
                    "months_not_prepared",
                    ready=ready,
                    reason=type(error).__name__,
                    hint=(
                        "tried again within the hour; `aigen migrate` with the owner's role creates"
                        " them, too"
                    ),
                )
                return ready
            month = following
        return MONTHS_AHEAD + 1

    async def _load_many(self, ids: Sequence[UUID]) -> list[GenerationRequest | None]:
        found = await self._database.fetch(
            f"{request_sql.SELECT_REQUEST} WHERE r.id = ANY($1::uuid[])", list(ids)
        )
        by_id = {row["id"]: request_rows.to_request(row) for row in found}
        return [by_id.get(request_id) for request_id in ids]
