"""Writes changes and reads requests: the one door to state and money, one statement for each thing that happens.

A change is written whole or not at all: request, timeline, holds, debts, idempotency key. Who owns a row is
decided by its version: a write that expects another version writes nothing and says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import cache
from typing import Any
from uuid import UUID

import asyncpg

from creativeflow.services.aigeneration.domain.change import Answer, Change, Debt, Entry, Topic
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import Hold, HoldState, Request
from creativeflow.services.aigeneration.storage import rows
from creativeflow.services.aigeneration.storage.batching import Batcher
from creativeflow.services.aigeneration.storage.database import Database, to_json
from creativeflow.services.aigeneration.storage.flags import HOLD_UNDECIDED, RAISE
from creativeflow.services.aigeneration.storage.ledger import SET_ASIDE, SETTLING, TAKING

NOTES_MAX = 50
_TURNS = 3
"""How often a dispatcher looks at a lane again when others have just taken from it."""


class Written(Enum):
    """What a write came to."""

    YES = auto()
    SUPERSEDED = auto()
    """Somebody else moved the request first: load it again and decide anew."""
    NO_ALLOWANCE = auto()
    """The Free plan's generations of the month are used up; nothing was written."""
    NOT_TAKEN = auto()
    """The credits that it takes are not there, or not to be had at once; nothing was written."""


class KeyTakenError(Exception):
    """The idempotency key is already there; nothing was written."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What is known under an idempotency key; `status` is None while its action has no answer yet."""

    fingerprint: str
    request_id: UUID
    status: int | None
    body: str | None
    location: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LeasedJobs:
    """Jobs that are ours to publish; `window_full`: others wait until a job of the lane is finished."""

    jobs: list[Request]
    window_full: bool = False


# One parameter carries the whole batch; jsonb_to_recordset turns it into rows of these types.
_ROWS = """
jsonb_to_recordset($1::jsonb) AS c(
        id uuid, version int, at timestamptz, from_state text, weight float8, queues bool,
        user_id text, project_id text, created_by text, correlation_id text, traceparent text,
        state text, stage text, round int, attempt int, job_id uuid, plan text, brief jsonb, metadata jsonb,
        samples jsonb, sample_failures jsonb, selected_sample_id text, final_resolution text, file_format text,
        final_asset jsonb, failure jsonb, progress jsonb, pending_action jsonb, route jsonb,
        model text, ai_model_used text, retry_of uuid, max_rounds int,
        due_at timestamptz, lease_until timestamptz, deadline_at timestamptz, remind_at timestamptz,
        allowance_month date, entries jsonb, debts jsonb, holds jsonb, usage jsonb,
        principal text, key text, fingerprint text, status int, location text, body text,
        take_key text, take_amount bigint, take_action text, webhook jsonb)"""

# Start-time fair queuing: a user's next job starts where the user's last unfinished one ended, never before the
# lane's virtual time. Heavier plans advance by less.
_CHANGE = f"""
change AS MATERIALIZED (
    SELECT c.*, CASE WHEN c.queues THEN
               GREATEST(l.virtual_time, COALESCE((
                   SELECT max(q.fair_at) + 1 / c.weight FROM generation_requests q
                   WHERE q.user_id = c.user_id AND q.stage = c.stage
                     AND q.state IN ('PENDING', 'PUBLISHING_TO_QUEUE', 'PROCESSING_SAMPLES', 'PROCESSING_FINAL')), 0))
               + (row_number() OVER (PARTITION BY c.user_id, c.stage, c.queues ORDER BY c.id) - 1) / c.weight
           END AS fair_at
    FROM {_ROWS} LEFT JOIN lanes l ON c.queues AND l.lane = c.stage ORDER BY c.id
)"""  # noqa: S608 - a constant of this module

_USE_ALLOWANCE = """
    INSERT INTO free_usage AS u (user_id, month, used)
    SELECT user_id, allowance_month, count(*) FROM change WHERE allowance_month IS NOT NULL
    GROUP BY user_id, allowance_month HAVING count(*) <= $2 ORDER BY user_id
    ON CONFLICT (user_id, month) DO UPDATE SET used = u.used + excluded.used WHERE u.used + excluded.used <= $2
    RETURNING u.user_id, u.month"""

_ENTRY = """
entry AS (
    INSERT INTO generation_events (request_id, version, event, state, data, at)
    SELECT c.id, c.version, e->>'event', e->>'state', e->'data', c.at
    FROM written c, jsonb_array_elements(c.entries) e
)"""

# A settled capture is told after what it paid for.
_ENTRIES = """
entry AS (
    INSERT INTO generation_events (request_id, version, event, state, data, at)
    SELECT id, version, event, state, data, at FROM (
        SELECT c.id, c.version, e->>'event' AS event, e->>'state' AS state, e->'data' AS data, c.at, nth
        FROM written c, jsonb_array_elements(c.entries) WITH ORDINALITY entries(e, nth)
        UNION ALL
        SELECT s.id, NULL, 'credits_captured', NULL, jsonb_build_object('hold', s.key), s.at, 99 FROM settling s) lines
    ORDER BY id, nth
)"""


def _tail(*, take: bool = False, settle: bool = False) -> str:
    """Everything beside the request; `take`, `settle`: credits that lie in this database move along."""
    owed = "d->>'topic' <> 'credits.capture' OR d->'body'->>'key' NOT IN (SELECT key FROM settling)"
    settled = ", settled_at = CASE WHEN h.key IN (SELECT key FROM settling) THEN excluded.began_at END"
    return f"""
{f"{SETTLING}, {_ENTRIES}" if settle else _ENTRY}, {f"{SET_ASIDE}, " if take else ""}debt AS (
    INSERT INTO outbox (request_id, topic, body, due_at, created_at)
    SELECT c.id, d->>'topic', d->'body', c.at, c.at
    FROM written c, jsonb_array_elements(c.debts) d {f"WHERE {owed}" if settle else ""}
), hold AS (
    INSERT INTO holds AS h (key, request_id, user_id, stage, round, action, funding, amount, month, state, began_at)
    SELECT n.key, c.id, c.user_id, n.stage, n.round, n.action, n.funding, n.amount, n.month, n.state, c.at
    FROM written c, jsonb_to_recordset(c.holds) AS n(
        key text, stage text, round int, action text, funding text, amount int, month date, state text)
    ON CONFLICT (key) DO UPDATE SET
        state = excluded.state, amount = excluded.amount, action = excluded.action,
        resolved_at = CASE WHEN excluded.state IN ('captured', 'released') THEN excluded.began_at END
        {settled if settle else ""}
), used AS (
    INSERT INTO usage_log (request_id, user_id, project_id, stage, round, action, paid_by, amount, plan, model, at)
    SELECT c.id, c.user_id, c.of_project, u.stage, u.round, u.action, u.paid_by, u.amount, c.plan, u.model, c.at
    FROM written c, jsonb_to_recordset(c.usage) AS u(
        stage text, round int, action text, paid_by text, amount int, model text)
), claimed AS (
    INSERT INTO idempotency_keys (principal, key, fingerprint, request_id, status, location, body, created_at)
    SELECT c.principal, c.key, c.fingerprint, c.id, c.status, c.location, c.body, c.at
    FROM written c WHERE c.key IS NOT NULL
), answered AS (
    UPDATE idempotency_keys k SET status = c.status, location = c.location, body = c.body
    FROM written c
    WHERE k.request_id = c.id AND k.status IS NULL AND c.key IS NULL AND c.status IS NOT NULL
)"""  # noqa: S608 - joined from constants of this module


def _intake(*, take: bool) -> str:
    return f"""
WITH {_CHANGE}, allowance AS ({_USE_ALLOWANCE}){f", {TAKING.format(rows='change')}" if take else ""}, stored AS (
    INSERT INTO generation_requests (
        id, user_id, project_id, created_by, correlation_id, traceparent, state, stage, round, attempt, job_id,
        version, plan, brief, metadata, max_rounds, file_format, pending_action, route, model, retry_of, fair_at,
        due_at, deadline_at, created_at, updated_at)
    SELECT c.id, c.user_id, c.project_id, c.created_by, c.correlation_id, c.traceparent, c.state, c.stage, c.round,
           c.attempt, c.job_id, c.version, c.plan, c.brief, c.metadata, c.max_rounds, c.file_format, c.pending_action,
           c.route, c.model, c.retry_of, c.fair_at, c.due_at, c.deadline_at, c.at, c.at
    FROM change c
    WHERE (c.allowance_month IS NULL OR EXISTS (
        SELECT FROM allowance a WHERE a.user_id = c.user_id AND a.month = c.allowance_month))
      {"AND (c.take_key IS NULL OR c.id IN (SELECT id FROM taken))" if take else ""}
    RETURNING id
), written AS MATERIALIZED (
    SELECT c.*, c.project_id AS of_project FROM change c WHERE c.id IN (SELECT id FROM stored)
), {_tail(take=take)}
SELECT id FROM stored"""  # noqa: S608 - joined from constants of this module


_INTAKE = _intake(take=False)
_INTAKE_AND_TAKE = _intake(take=True)

_SET = """
        state = c.state, stage = c.stage, round = c.round, attempt = c.attempt, job_id = c.job_id,
        version = c.version, plan = c.plan, brief = COALESCE(c.brief, r.brief), samples = COALESCE(c.samples, '[]'),
        sample_failures = COALESCE(c.sample_failures, '[]'), selected_sample_id = c.selected_sample_id,
        final_resolution = c.final_resolution, file_format = c.file_format, final_asset = c.final_asset,
        failure = c.failure, progress = c.progress, pending_action = c.pending_action,
        route = COALESCE(c.route, r.route), model = c.model, ai_model_used = c.ai_model_used, due_at = c.due_at,
        lease_until = c.lease_until, deadline_at = c.deadline_at, remind_at = c.remind_at, updated_at = c.at"""
_GUARD = "r.id = c.id AND r.version = c.version - 1 AND r.state = c.from_state"

# Whose credits are taken is known before anything is written; all are locked at once, so that the order of their ids
# stays the order of their locks.
_LOCKED = f"""
locked AS MATERIALIZED (
    SELECT c.id, c.user_id, c.take_key, c.take_amount FROM change c JOIN generation_requests r ON {_GUARD}
    ORDER BY c.id FOR UPDATE OF r
)"""  # noqa: S608 - as above


def _moving(*, take: bool, settle: bool) -> str:
    return f"""
WITH {_CHANGE}, {f"{_LOCKED}, {TAKING.format(rows='locked')}, " if take else ""}written AS (
    UPDATE generation_requests r SET {_SET}, fair_at = COALESCE(c.fair_at, r.fair_at)
    FROM change c WHERE {_GUARD} {"AND (c.take_key IS NULL OR c.id IN (SELECT id FROM taken))" if take else ""}
    RETURNING c.*, r.project_id AS of_project, r.created_by AS of_caller
), {_tail(take=take, settle=settle)}, given_back AS (
    UPDATE free_usage u SET used = u.used - g.given FROM (
        SELECT c.user_id, n.month, count(*) AS given
        FROM written c, jsonb_to_recordset(c.holds) AS n(month date, funding text, state text)
        WHERE n.funding = 'allowance' AND n.state = 'released' GROUP BY c.user_id, n.month) g
    WHERE u.user_id = g.user_id AND u.month = g.month
)"""  # noqa: S608 - joined from constants of this module


# What a move announces goes to every enabled target of the caller that made the request, each with a debt of its own.
_TELLING = """
delivery AS (
    INSERT INTO webhook_deliveries (target_id, event_id, request_id, type, body, created_at, updated_at)
    SELECT t.id, (c.webhook->>'event_id')::uuid, c.id, c.webhook->>'type', c.webhook->>'body', c.at, c.at
    FROM written c JOIN webhook_targets t ON t.owner = c.of_caller AND t.state = 'enabled'
    WHERE c.webhook IS NOT NULL
    RETURNING target_id, event_id, request_id, type, created_at
), owed AS (
    INSERT INTO outbox (request_id, topic, body, due_at, created_at)
    SELECT request_id, 'webhook:' || target_id, jsonb_build_object('event_id', event_id, 'event_type', type),
           created_at, created_at
    FROM delivery
)"""

_WRITTEN = "SELECT id, true AS written FROM written"
_NOT_TAKEN = "SELECT id, false FROM locked WHERE take_key IS NOT NULL AND id NOT IN (SELECT id FROM written)"


@cache
def _move(*, take: bool, settle: bool, tell: bool) -> str:
    """The statement which writes into no table, and looks for nobody, that no change of its batch asks for."""
    ends = f"{_WRITTEN} UNION ALL {_NOT_TAKEN}" if take else _WRITTEN
    return f"{_moving(take=take, settle=settle)}{f', {_TELLING}' if tell else ''} {ends}"


# A job that is leased, confirmed or begun touches little of its request, and nothing else: half of all moves.
_ALONE = f"""
UPDATE generation_requests r SET
    state = c.state, version = c.version, attempt = c.attempt, job_id = c.job_id, progress = c.progress,
    route = COALESCE(c.route, r.route), model = c.model, due_at = c.due_at, lease_until = c.lease_until,
    deadline_at = c.deadline_at, updated_at = c.at
FROM jsonb_to_recordset($1::jsonb) AS c(
    id uuid, version int, at timestamptz, from_state text, state text, attempt int, job_id uuid, progress jsonb,
    route jsonb, model text, due_at timestamptz, lease_until timestamptz, deadline_at timestamptz,
    entries jsonb)
WHERE {_GUARD}"""  # noqa: S608 - as above
_MOVED_ALONE = f"RETURNING c.id, c.version, c.at, c.entries), {_ENTRY} {_WRITTEN}"
_MOVE_ALONE = f"WITH written AS ({_ALONE} {_MOVED_ALONE}"

# The head of the lane in fair order, without the jobs of users who have as many with workers as their plan allows.
_LEASABLE = """
WITH busy AS MATERIALIZED (
    SELECT COALESCE(jsonb_object_agg(user_id, jobs), '{}') AS jobs_of, COALESCE(sum(jobs), 0)::int AS jobs FROM (
        SELECT user_id, count(*) AS jobs FROM generation_requests
        WHERE stage = $1 AND state IN ('PUBLISHING_TO_QUEUE', 'PROCESSING_SAMPLES', 'PROCESSING_FINAL')
        GROUP BY user_id) users
), head AS MATERIALIZED (
    SELECT id, user_id, plan, fair_at, row_number() OVER (PARTITION BY user_id ORDER BY fair_at, id) AS nth FROM (
        SELECT id, user_id, plan, fair_at FROM generation_requests
        WHERE state = 'PENDING' AND stage = $1 AND due_at <= $2 ORDER BY fair_at, id LIMIT 4 * $4) first
), next AS MATERIALIZED (
    SELECT h.id FROM head h, busy b
    WHERE h.nth + COALESCE((b.jobs_of->>h.user_id)::int, 0) <= COALESCE(($5::jsonb->>h.plan)::int, $3)
    ORDER BY h.fair_at, h.id
    LIMIT LEAST($4, GREATEST(0, $3 - (SELECT jobs FROM busy)))
)
SELECT r.*, (SELECT jsonb_agg(to_jsonb(h) ORDER BY h.began_at, h.key) FROM holds h WHERE h.request_id = r.id) AS holds,
       (SELECT count(*) FROM head) AS waiting, (SELECT turn FROM lanes WHERE lane = $1) AS turn
FROM generation_requests r JOIN next USING (id) WHERE r.state = 'PENDING'
ORDER BY r.fair_at, r.id"""

_LEASE = f"""
WITH turn AS (
    UPDATE lanes SET turn = turn + 1, virtual_time = GREATEST(virtual_time, $4)
    WHERE lane = $2 AND turn = $3 RETURNING turn
), written AS ({_ALONE} AND EXISTS (SELECT FROM turn) {_MOVED_ALONE}"""  # noqa: S608 - as above

SELECT_REQUEST = """
SELECT r.*, (SELECT jsonb_agg(to_jsonb(h) ORDER BY h.began_at, h.key) FROM holds h WHERE h.request_id = r.id) AS holds
FROM generation_requests r"""

NEXT_LOOK = "LEAST(r.deadline_at, r.lease_until, r.remind_at)"
"""When time has something to say to a request, as the index has it."""


class Store:
    """State, timeline, holds and debts in one database.

    `ledger_here`: so are the credits, and a capture is no debt but done in the statement that delivers.
    """

    def __init__(
        self, database: Database, *, free_generations: int, ledger_here: bool = False, batch_size: int = 64
    ) -> None:
        self._database = database
        self._free_generations = free_generations
        self._ledger_here = ledger_here
        self._intakes = Batcher(self._write_intakes, key=_intake_key, max_size=batch_size)
        self._moves = Batcher(self._write_moves, key=lambda change: change.after.id, max_size=batch_size)
        self._loads = Batcher(self._load_many, key=lambda request_id: request_id, max_size=batch_size)

    async def write(self, change: Change) -> Written:
        """Write one change, together with others that wait at the same moment.

        Raises:
            KeyTakenError: the change claims an idempotency key that is already there; nothing was written.
            StorageUnavailableError: nobody knows whether it was written.
        """
        try:
            if change.before is None:
                return await self._intakes.submit(change)
            if change.allowance is not None:
                return await self._write_with_allowance(change)
            return await self._moves.submit(change)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "idempotency_keys_pkey":
                raise KeyTakenError from None
            raise

    async def write_moves(self, changes: Sequence[Change]) -> list[bool]:
        """Write many changes of different requests as one statement; for each, whether it was written."""
        return [outcome is Written.YES for outcome in await self._write_moves(changes)] if changes else []

    async def load(self, request_id: UUID) -> Request | None:
        """The request with its holds, as last committed."""
        return await self._loads.submit(request_id)

    async def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """What is stored under an idempotency key."""
        row = await self._database.fetchrow(
            """SELECT fingerprint, request_id, status, body, location, created_at
               FROM idempotency_keys WHERE principal = $1 AND key = $2""",
            principal, key,
        )  # fmt: skip
        return StoredAnswer(**row) if row else None

    async def complete_key(self, request_id: UUID, answer: Answer) -> None:
        """Store the answer under the key that was claimed for this request, if it has none yet."""
        await self._database.execute(
            """UPDATE idempotency_keys SET status = $2, location = $3, body = $4
               WHERE request_id = $1 AND status IS NULL""",
            request_id, answer.status, answer.location, to_json(answer.body),
        )  # fmt: skip

    async def lease_jobs(
        self, lane: Stage, *, window: int, most: int, per_user: Mapping[str, int], now: datetime,
        lease: Callable[[Request], Change],
    ) -> LeasedJobs:  # fmt: skip
        """Take the next jobs of a lane in fair order, at most `most` and never more than the window allows.

        `per_user`: how many jobs of one user may be in the lane at once, by plan; the others wait for their turn
        without standing before anybody.

        Any number of dispatchers may ask. A lane counts its turns: whoever has looked at the lane takes the next turn
        with what they write, and a turn that somebody else has taken meanwhile writes nothing. So the window is exact.
        """
        for _ in range(_TURNS):
            found = await self._database.fetch(_LEASABLE, lane, now, window, most, dict(per_user))
            if not found:
                return LeasedJobs([], window_full=await self._some_wait(lane, now))
            changes = [lease(rows.to_request(row)) for row in found]
            payload = _payload(changes, rows.from_job_move)
            reached = max(row["fair_at"] for row in found)
            taken = await self._database.fetch(_LEASE, payload, lane, found[0]["turn"], reached)
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
                lane, now,
            )
        )  # fmt: skip

    async def due(self, now: datetime, most: int) -> list[Request]:
        """Requests whose deadline, lease or reminder has passed, the longest overdue first."""
        found = await self._database.fetch(
            f"""{SELECT_REQUEST} WHERE r.deadline_at IS NOT NULL AND {NEXT_LOOK} <= $1
                ORDER BY {NEXT_LOOK} LIMIT $2""",
            now, most,
        )  # fmt: skip
        return [rows.to_request(row) for row in found]

    async def unsettled_holds(self, before: datetime, most: int) -> list[UUID]:
        """Requests with a hold that has been `placing` since `before`: its caller is gone or got no answer."""
        found = await self._database.fetch(
            """SELECT request_id FROM holds WHERE state = 'placing' AND parked_at IS NULL AND began_at <= $1
               ORDER BY began_at LIMIT $2""",
            before, most,
        )  # fmt: skip
        return [row["request_id"] for row in found]

    async def give_back_late(self, hold: Hold, request: Request, *, held: bool, now: datetime) -> bool:
        """Resolve a `placing` hold whose request ended meanwhile: what turned out held is released again.

        Returns False when somebody else has resolved it already.
        """
        entry = Entry("credits_released_late" if held else "credits_not_held", None, {"hold": hold.key})
        debts = [Debt(Topic.RELEASE, hold.reservation(request.user_id))] if held else []
        return bool(
            await self._database.fetchval(
                """WITH hold AS (
                       UPDATE holds SET state = $3, resolved_at = $2 WHERE key = $1 AND state = 'placing' RETURNING key
                   ), entry AS (
                       INSERT INTO generation_events (request_id, event, data, at)
                       SELECT $4, $5, $6::jsonb, $2 FROM hold
                   ), debt AS (
                       INSERT INTO outbox (request_id, topic, body, due_at, created_at)
                       SELECT $4, d->>'topic', d->'body', $2, $2 FROM hold, jsonb_array_elements($7::jsonb) d
                   )
                   SELECT count(*) FROM hold""",
                hold.key, now, HoldState.RELEASED if held else HoldState.REFUSED, request.id,
                entry.event, entry.data, [{"topic": d.topic, "body": d.body} for d in debts],
            )
        )  # fmt: skip

    async def park_hold(self, hold: Hold, *, reason: str, now: datetime) -> bool:
        """Leave a `placing` hold to a person, because the credit service cannot say what became of it.

        The account is flagged and its user told in the same statement. Returns False when it is parked already,
        or no longer in doubt.
        """
        return bool(
            await self._database.fetchval(
                f"""WITH parked AS (
                        UPDATE holds SET parked_at = $2, parked_reason = $3
                        WHERE key = $1 AND state = 'placing' AND parked_at IS NULL RETURNING key, user_id, request_id
                    ), entry AS (
                        INSERT INTO generation_events (request_id, event, data, at)
                        SELECT request_id, 'hold_parked', jsonb_build_object('hold', key, 'reason', $3::text), $2
                        FROM parked
                    ), flag AS (
                        SELECT user_id, $4::text AS reason, key AS hold_key, request_id FROM parked
                    ), {RAISE.format(now="$2")}
                    SELECT count(*) FROM parked""",  # noqa: S608 - joined from constants
                hold.key, now, reason[:500], HOLD_UNDECIDED,
            )
        )  # fmt: skip

    async def unpark_hold(self, key: str, *, by: str, charged: bool, now: datetime) -> UUID | None:
        """Take a parked hold up again, after a person has said what became of it; its request, or None if unknown."""
        found = await self._database.fetchval(
            """WITH taken AS (
                   UPDATE holds SET parked_at = NULL, parked_reason = NULL
                   WHERE key = $1 AND parked_at IS NOT NULL RETURNING key, request_id
               ), entry AS (
                   INSERT INTO generation_events (request_id, event, data, at)
                   SELECT request_id, 'hold_decided', jsonb_build_object('hold', key, 'by', $2::text,
                                                                         'charged', $3::boolean), $4 FROM taken
               )
               SELECT request_id FROM taken""",
            key, by, charged, now,
        )  # fmt: skip
        return UUID(int=found.int) if found else None

    async def hold(self, key: str) -> tuple[UUID, Hold] | None:
        """A hold by its key, and the request it belongs to."""
        row = await self._database.fetchrow("SELECT * FROM holds WHERE key = $1", key)
        return (UUID(int=row["request_id"].int), rows.to_hold(dict(row))) if row else None

    async def note(self, request_id: UUID, entry: Entry, now: datetime) -> None:
        """Add a line to the timeline without a move: evidence, such as a result that came too late.

        Of one kind only so many are kept: whoever repeats himself does not fill the timeline.
        """
        await self._database.execute(
            """INSERT INTO generation_events (request_id, event, data, at) SELECT $1, $2, $3, $4
               WHERE (SELECT count(*) FROM generation_events WHERE request_id = $1 AND event = $2) < $5""",
            request_id, entry.event, entry.data, now, NOTES_MAX,
        )  # fmt: skip

    async def forget_old_keys(self, before: datetime) -> int:
        """Delete idempotency keys older than `before`; bounded, so call again while it returns many."""
        return await self._database.execute_counted(
            """DELETE FROM idempotency_keys WHERE (principal, key) IN (
                   SELECT principal, key FROM idempotency_keys WHERE created_at < $1 LIMIT 5000)""",
            before,
        )

    async def prepare_months(self, now: datetime) -> None:
        """Make sure that the timeline has partitions for this month and the next two; safe at any time."""
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        for _ in range(3):
            following = (month + timedelta(days=32)).replace(day=1)
            await self._database.execute("SELECT ensure_events_partition($1, $2)", month.date(), following.date())
            month = following

    async def _write_intakes(self, changes: Sequence[Change]) -> list[Written]:
        payload = _payload(changes)
        statement = _INTAKE_AND_TAKE if any("take_key" in row for row in payload) else _INTAKE
        written = {row["id"] for row in await self._database.fetch(statement, payload, self._free_generations)}
        found = []
        for change in changes:
            if change.after.id in written:
                found.append(Written.YES)
            elif change.taking is not None:
                found.append(Written.NOT_TAKEN)
            elif len(changes) > 1:
                # Several generations of one user came together and do not all fit into the month: alone it may.
                found += await self._write_intakes([change])
            else:
                found.append(Written.NO_ALLOWANCE)
        return found

    async def _write_moves(self, changes: Sequence[Change]) -> list[Written]:
        try:
            return await self._move_all(changes, settle=self._ledger_here)
        except asyncpg.UniqueViolationError as error:
            if error.table_name != "credit_entries" or len(changes) > 1:
                raise
            # Somebody used the key in the ledger at this moment; the long way finds out what became of it.
            return [Written.NOT_TAKEN] if changes[0].taking else await self._move_all(changes, settle=False)

    async def _move_all(self, changes: Sequence[Change], *, settle: bool) -> list[Written]:
        found = await self._database.fetch(*_moved_by(changes, settle=settle))
        written = {row["id"]: Written.YES if row["written"] else Written.NOT_TAKEN for row in found}
        return [written.get(change.after.id, Written.SUPERSEDED) for change in changes]

    async def _write_with_allowance(self, change: Change) -> Written:
        """A regeneration on the Free plan: the month's count and the move in one transaction."""
        statement, payload = _moved_by([change], settle=self._ledger_here)
        outcome = Written.YES
        async with self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                # First the request, then the month: as a move that gives a generation back locks them.
                if not await connection.fetch(statement, payload):
                    outcome = Written.SUPERSEDED
                elif not await connection.fetch(f"WITH {_CHANGE} {_USE_ALLOWANCE}", payload, self._free_generations):
                    outcome = Written.NO_ALLOWANCE
            except BaseException:
                await transaction.rollback()
                raise
            await (transaction.commit() if outcome is Written.YES else transaction.rollback())
        return outcome

    async def _load_many(self, ids: Sequence[UUID]) -> list[Request | None]:
        found = await self._database.fetch(f"{SELECT_REQUEST} WHERE r.id = ANY($1::uuid[])", list(ids))
        by_id = {row["id"]: rows.to_request(row) for row in found}
        return [by_id.get(request_id) for request_id in ids]


def _payload(
    changes: Sequence[Change], row: Callable[[Change], dict[str, Any]] = rows.from_change
) -> list[dict[str, Any]]:
    """What a statement is given, in the order of the ids: two statements that lock some of the same requests do so in
    one order, and never wait for each other in a circle.
    """
    return [row(change) for change in sorted(changes, key=lambda change: change.after.id)]


def _moved_by(changes: Sequence[Change], *, settle: bool) -> tuple[str, list[dict[str, Any]]]:
    """The statement that writes these moves, and what it is given."""
    if all(map(rows.moves_job_alone, changes)):
        return _MOVE_ALONE, _payload(changes, rows.from_job_move)
    payload = _payload(changes)
    captures = settle and any(debt.topic == Topic.CAPTURE for change in changes for debt in change.debts)
    takes, tells = (any(name in row for row in payload) for name in ("take_key", "webhook"))
    return _move(take=takes, settle=captures, tell=tells), payload


def _intake_key(change: Change) -> Any:
    return (change.claim.principal, change.claim.key) if change.claim else change.after.id
