"""The statements that write and find requests, composed of the parts that a batch needs.

A writing statement takes a batch of changes as one parameter, as `request_rows.py` makes them, and
is executed whole or not at all. The composed statements can be read in `storage/sql/`.
"""

from functools import cache

from creativeflow.services.aigeneration.storage.ledger import SET_ASIDE, SETTLING, TAKING
from creativeflow.services.aigeneration.storage.state_sets import SQL_IN_FLIGHT, SQL_WITH_JOB

# One parameter carries the whole batch; jsonb_to_recordset turns it into rows of these types.
_ROWS = """
jsonb_to_recordset($1::jsonb) AS c(
        id uuid, version int, at timestamptz, from_state text, weight float8, queues bool,
        user_id text, project_id text, created_by text, correlation_id text, traceparent text,
        state text, stage text, round int, attempt int, job_id uuid, plan text,
        brief jsonb, metadata jsonb, samples jsonb, sample_failures jsonb,
        selected_sample_id text, final_resolution text, file_format text,
        final_asset jsonb, failure jsonb, progress jsonb, pending_action jsonb, route jsonb,
        model text, ai_model_used text, retry_of uuid, max_rounds int,
        due_at timestamptz, lease_until timestamptz, deadline_at timestamptz, remind_at timestamptz,
        allowance_month date, entries jsonb, messages jsonb, holds jsonb, usage jsonb,
        principal text, key text, fingerprint text, status int, location text, body text,
        take_key text, take_amount bigint, take_action text, webhook jsonb)"""

# Start-time fair queuing: a user's next job starts where the user's last unfinished one ended,
# never before the lane's virtual time. Heavier plans advance by less.
#
# `key_used`: the idempotency key is already committed. Such a change writes nothing and is reported
# as a result; only a key that another transaction is claiming at this very moment violates the
# primary key and fails the statement.
_CHANGE = f"""
change AS MATERIALIZED (
    SELECT c.*, CASE WHEN c.queues THEN
               GREATEST(l.virtual_time, COALESCE((
                   SELECT max(q.fair_at) + 1 / c.weight FROM generation_requests q
                   WHERE q.user_id = c.user_id AND q.stage = c.stage
                     AND q.state IN {SQL_WITH_JOB}), 0))
               + (row_number() OVER (PARTITION BY c.user_id, c.stage, c.queues
                                     ORDER BY c.id) - 1) / c.weight
           END AS fair_at,
           c.key IS NOT NULL AND EXISTS (
               SELECT FROM idempotency_keys k
               WHERE k.principal = c.principal AND k.key = c.key) AS key_used
    FROM {_ROWS} LEFT JOIN lanes l ON c.queues AND l.lane = c.stage ORDER BY c.id
)"""  # noqa: S608 - a constant of this module

_USE_ALLOWANCE = """
    INSERT INTO free_usage AS u (user_id, month, used)
    SELECT user_id, allowance_month, count(*) FROM change
    WHERE allowance_month IS NOT NULL {condition}
    GROUP BY user_id, allowance_month HAVING count(*) <= $2 ORDER BY user_id
    ON CONFLICT (user_id, month) DO UPDATE SET used = u.used + excluded.used
        WHERE u.used + excluded.used <= $2
    RETURNING u.user_id, u.month"""

# Here the key of the change is its own, claimed by the move before it in the transaction.
USE_ALLOWANCE = f"WITH {_CHANGE} {_USE_ALLOWANCE.format(condition='')}"
"""The month's count alone, for a move in the same transaction; returns nothing where it is used up.
"""

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
        SELECT c.id, c.version, e->>'event' AS event, e->>'state' AS state,
               e->'data' AS data, c.at, nth
        FROM written c, jsonb_array_elements(c.entries) WITH ORDINALITY entries(e, nth)
        UNION ALL
        SELECT s.id, NULL, 'credits_captured', NULL, jsonb_build_object('hold', s.key), s.at, 99
        FROM settling s) lines
    ORDER BY id, nth
)"""


def _tail(*, take: bool = False, settle: bool = False) -> str:
    """Everything beside the request; `take`, `settle`: credits that lie in this database move
    along.
    """
    owed = "d->>'topic' <> 'credits.capture' OR d->'body'->>'key' NOT IN (SELECT key FROM settling)"
    settled = (
        ", settled_at = CASE WHEN h.key IN (SELECT key FROM settling) THEN excluded.began_at END"
    )
    return f"""
{f"{SETTLING}, {_ENTRIES}" if settle else _ENTRY}, {f"{SET_ASIDE}, " if take else ""}message AS (
    INSERT INTO outbox (request_id, topic, body, due_at, created_at)
    SELECT c.id, d->>'topic', d->'body', c.at, c.at
    FROM written c, jsonb_array_elements(c.messages) d {f"WHERE {owed}" if settle else ""}
), hold AS (
    INSERT INTO holds AS h (
        key, request_id, user_id, stage, round, action, funding, amount, month, state, began_at)
    SELECT n.key, c.id, c.user_id, n.stage, n.round, n.action, n.funding, n.amount, n.month,
           n.state, c.at
    FROM written c, jsonb_to_recordset(c.holds) AS n(
        key text, stage text, round int, action text, funding text, amount int, month date,
        state text)
    ON CONFLICT (key) DO UPDATE SET
        state = excluded.state, amount = excluded.amount, action = excluded.action,
        resolved_at = CASE WHEN excluded.state IN ('captured', 'released')
            THEN excluded.began_at END
        {settled if settle else ""}
), used AS (
    INSERT INTO usage_log (
        request_id, user_id, project_id, stage, round, action, paid_by, amount, plan, model, at)
    SELECT c.id, c.user_id, c.of_project, u.stage, u.round, u.action, u.paid_by, u.amount,
           c.plan, u.model, c.at
    FROM written c, jsonb_to_recordset(c.usage) AS u(
        stage text, round int, action text, paid_by text, amount int, model text)
), claimed AS (
    INSERT INTO idempotency_keys (
        principal, key, fingerprint, request_id, status, location, body, created_at)
    SELECT c.principal, c.key, c.fingerprint, c.id, c.status, c.location, c.body, c.at
    FROM written c WHERE c.key IS NOT NULL
), answered AS (
    UPDATE idempotency_keys k SET status = c.status, location = c.location, body = c.body
    FROM written c
    WHERE k.request_id = c.id AND k.status IS NULL AND c.key IS NULL AND c.status IS NOT NULL
)"""  # noqa: S608 - joined from constants of this module


_IF_TAKEN = "AND (c.take_key IS NULL OR c.id IN (SELECT id FROM taken))"


_KEY_USED = "SELECT id, NULL::bool FROM change WHERE key_used"


def _intake(*, take: bool) -> str:
    allowance = _USE_ALLOWANCE.format(condition="AND NOT key_used")
    return f"""
WITH {_CHANGE}, allowance AS ({allowance}){f", {TAKING.format(rows='change')}" if take else ""},
    stored AS (
    INSERT INTO generation_requests (
        id, user_id, project_id, created_by, correlation_id, traceparent,
        state, stage, round, attempt, job_id, version, plan, brief, metadata, max_rounds,
        file_format, pending_action, route, model, retry_of, fair_at,
        due_at, deadline_at, created_at, updated_at)
    SELECT c.id, c.user_id, c.project_id, c.created_by, c.correlation_id, c.traceparent,
           c.state, c.stage, c.round, c.attempt, c.job_id, c.version, c.plan, c.brief, c.metadata,
           c.max_rounds, c.file_format, c.pending_action, c.route, c.model, c.retry_of, c.fair_at,
           c.due_at, c.deadline_at, c.at, c.at
    FROM change c
    WHERE NOT c.key_used AND (c.allowance_month IS NULL OR EXISTS (
        SELECT FROM allowance a WHERE a.user_id = c.user_id AND a.month = c.allowance_month))
      {_IF_TAKEN if take else ""}
    RETURNING id
), written AS MATERIALIZED (
    SELECT c.*, c.project_id AS of_project FROM change c WHERE c.id IN (SELECT id FROM stored)
), {_tail(take=take)}
SELECT id, true AS written FROM stored UNION ALL {_KEY_USED}"""  # noqa: S608 - joined from constants of this module


INTAKE = _intake(take=False)
INTAKE_AND_TAKE = _intake(take=True)

_SET = """
        state = c.state, stage = c.stage, round = c.round, attempt = c.attempt, job_id = c.job_id,
        version = c.version, plan = c.plan, brief = COALESCE(c.brief, r.brief),
        samples = COALESCE(c.samples, '[]'), sample_failures = COALESCE(c.sample_failures, '[]'),
        selected_sample_id = c.selected_sample_id, final_resolution = c.final_resolution,
        file_format = c.file_format, final_asset = c.final_asset,
        failure = c.failure, progress = c.progress, pending_action = c.pending_action,
        route = COALESCE(c.route, r.route), model = c.model, ai_model_used = c.ai_model_used,
        due_at = c.due_at, lease_until = c.lease_until, deadline_at = c.deadline_at,
        remind_at = c.remind_at, updated_at = c.at"""
_GUARD = "r.id = c.id AND r.version = c.version - 1 AND r.state = c.from_state"

# Whose credits are taken is known before anything is written; all are locked at once, so that the
# order of their ids stays the order of their locks.
_LOCKED = f"""
locked AS MATERIALIZED (
    SELECT c.id, c.user_id, c.take_key, c.take_amount, c.key_used FROM change c
    JOIN generation_requests r ON {_GUARD} AND NOT c.key_used
    ORDER BY c.id FOR UPDATE OF r
)"""  # noqa: S608 - as above


def _moving(*, take: bool, settle: bool) -> str:
    return f"""
WITH {_CHANGE}, {f"{_LOCKED}, {TAKING.format(rows='locked')}, " if take else ""}written AS (
    UPDATE generation_requests r SET {_SET}, fair_at = COALESCE(c.fair_at, r.fair_at)
    FROM change c WHERE {_GUARD} AND NOT c.key_used {_IF_TAKEN if take else ""}
    RETURNING c.*, r.project_id AS of_project, r.created_by AS of_caller
), {_tail(take=take, settle=settle)}, given_back AS (
    UPDATE free_usage u SET used = u.used - g.given FROM (
        SELECT c.user_id, n.month, count(*) AS given
        FROM written c, jsonb_to_recordset(c.holds) AS n(month date, funding text, state text)
        WHERE n.funding = 'allowance' AND n.state = 'released' GROUP BY c.user_id, n.month) g
    WHERE u.user_id = g.user_id AND u.month = g.month
)"""  # noqa: S608 - joined from constants of this module


# What a move announces goes to every enabled target of the caller that made the request, each with
# a message of its own.
_TELLING = """
delivery AS (
    INSERT INTO webhook_deliveries (
        target_id, event_id, request_id, type, body, created_at, updated_at)
    SELECT t.id, (c.webhook->>'event_id')::uuid, c.id, c.webhook->>'type',
           c.webhook->>'body', c.at, c.at
    FROM written c JOIN webhook_targets t ON t.owner = c.of_caller AND t.state = 'enabled'
    WHERE c.webhook IS NOT NULL
    RETURNING target_id, event_id, request_id, type, created_at
), owed AS (
    INSERT INTO outbox (request_id, topic, body, due_at, created_at)
    SELECT request_id, 'webhook:' || target_id,
           jsonb_build_object('event_id', event_id, 'event_type', type), created_at, created_at
    FROM delivery
)"""

_WRITTEN = "SELECT id, true AS written FROM written"
_NOT_TAKEN = (
    "SELECT id, false FROM locked WHERE take_key IS NOT NULL AND id NOT IN (SELECT id FROM written)"
)


@cache
def move(*, take: bool, settle: bool, tell: bool) -> str:
    """The statement which writes into no table, and looks for nobody, that no change of its batch
    asks for.
    """
    ends = f"{_WRITTEN} UNION ALL {_KEY_USED}{f' UNION ALL {_NOT_TAKEN}' if take else ''}"
    return f"{_moving(take=take, settle=settle)}{f', {_TELLING}' if tell else ''} {ends}"


# A job that is leased, confirmed or begun touches little of its request, and nothing else: half of
# all moves.
_ALONE = f"""
UPDATE generation_requests r SET
    state = c.state, version = c.version, attempt = c.attempt, job_id = c.job_id,
    progress = c.progress, route = COALESCE(c.route, r.route), model = c.model,
    due_at = c.due_at, lease_until = c.lease_until, deadline_at = c.deadline_at,
    updated_at = c.at
FROM jsonb_to_recordset($1::jsonb) AS c(
    id uuid, version int, at timestamptz, from_state text, state text, attempt int,
    job_id uuid, progress jsonb, route jsonb, model text, due_at timestamptz,
    lease_until timestamptz, deadline_at timestamptz, entries jsonb)
WHERE {_GUARD}"""  # noqa: S608 - as above
_MOVED_ALONE = f"RETURNING c.id, c.version, c.at, c.entries), {_ENTRY} {_WRITTEN}"
MOVE_ALONE = f"WITH written AS ({_ALONE} {_MOVED_ALONE}"

_WITH_HOLDS = (
    "SELECT r.*, (SELECT jsonb_agg(to_jsonb(h) ORDER BY h.began_at, h.key)"
    " FROM holds h WHERE h.request_id = r.id) AS holds"
)

# The next jobs of a lane in fair order, without those of users who have as many with workers as
# their plan allows.
#
# The common case looks at the head of the lane alone. Where that is full of jobs that may not go
# yet, so that slots would stay free while others wait behind it, `by_user` looks at the head of
# each waiting user instead: a skip scan over the index by user, and from each as many jobs as the
# plan of the first one allows.
_ROOM = "LEAST($4, GREATEST(0, $3 - (SELECT jobs FROM busy)))"
LEASABLE = f"""
WITH RECURSIVE busy AS MATERIALIZED (
    SELECT COALESCE(jsonb_object_agg(user_id, jobs), '{{}}') AS jobs_of,
           COALESCE(sum(jobs), 0)::int AS jobs FROM (
        SELECT user_id, count(*) AS jobs FROM generation_requests
        WHERE stage = $1 AND state IN {SQL_IN_FLIGHT}
        GROUP BY user_id) users
), head AS MATERIALIZED (
    SELECT id, user_id, plan, fair_at,
           row_number() OVER (PARTITION BY user_id ORDER BY fair_at, id) AS nth FROM (
        SELECT id, user_id, plan, fair_at FROM generation_requests
        WHERE state = 'PENDING' AND stage = $1 AND due_at <= $2
        ORDER BY fair_at, id LIMIT 4 * $4) first
), ready AS MATERIALIZED (
    SELECT h.id FROM head h, busy b
    WHERE h.nth + COALESCE((b.jobs_of->>h.user_id)::int, 0)
        <= COALESCE(($5::jsonb->>h.plan)::int, $3)
    ORDER BY h.fair_at, h.id LIMIT {_ROOM}
), hidden AS MATERIALIZED (
    SELECT (SELECT count(*) FROM head) = 4 * $4 AND (SELECT count(*) FROM ready) < {_ROOM} AS others
), waiting_user AS (
    (SELECT user_id, plan FROM generation_requests
     WHERE (SELECT others FROM hidden) AND stage = $1 AND state = 'PENDING'
     ORDER BY user_id, stage, fair_at LIMIT 1)
    UNION ALL
    SELECT following.* FROM waiting_user w, LATERAL (
        SELECT r.user_id, r.plan FROM generation_requests r
        WHERE r.stage = $1 AND r.state = 'PENDING' AND r.user_id > w.user_id
        ORDER BY r.user_id, r.stage, r.fair_at LIMIT 1) following
), by_user AS (
    SELECT j.id FROM waiting_user w, busy b, LATERAL (
        SELECT r.id, r.fair_at FROM generation_requests r
        WHERE r.user_id = w.user_id AND r.stage = $1 AND r.state = 'PENDING' AND r.due_at <= $2
        ORDER BY r.fair_at, r.id
        LIMIT GREATEST(0, COALESCE(($5::jsonb->>w.plan)::int, $3)
            - COALESCE((b.jobs_of->>w.user_id)::int, 0))) j
    ORDER BY j.fair_at, j.id LIMIT {_ROOM}
), next AS MATERIALIZED (
    SELECT id FROM ready WHERE NOT (SELECT others FROM hidden) UNION ALL SELECT id FROM by_user
)
{_WITH_HOLDS},
       (SELECT count(*) FROM head) AS waiting, (SELECT turn FROM lanes WHERE lane = $1) AS turn
FROM generation_requests r JOIN next USING (id) WHERE r.state = 'PENDING'
ORDER BY r.fair_at, r.id"""  # noqa: S608 - as above

LEASE = f"""
WITH turn AS (
    UPDATE lanes SET turn = turn + 1, virtual_time = GREATEST(virtual_time, $4)
    WHERE lane = $2 AND turn = $3 RETURNING turn
), written AS ({_ALONE} AND EXISTS (SELECT FROM turn) {_MOVED_ALONE}"""  # noqa: S608 - as above

SELECT_REQUEST = f"""
{_WITH_HOLDS}
FROM generation_requests r"""

NEXT_LOOK = "LEAST(r.deadline_at, r.lease_until, r.remind_at)"
"""When time has something to say to a request, as the index has it."""


_GUARDED = (
    "Safe under READ COMMITTED: a row is updated only with the version and the state that the"
    " change was decided on; a concurrent transaction that was faster makes the guard false after"
    " its commit, and nothing else of the change is written: everything reads from `written`."
)
_INSERTED = (
    "Safe under READ COMMITTED: the rows are new. A concurrent statement with the same"
    " idempotency key violates the primary key and fails; one that is committed"
    " is returned as `key_used`."
)
_READ_AHEAD = (
    "Reads only, without locks: what it found is outdated once another dispatcher takes the lane's"
    " turn, and `lease_jobs` then writes nothing."
)
_IN_TURN = (
    "Safe under READ COMMITTED: only one dispatcher takes a turn of the lane, which the update of"
    " its row decides; with another turn nothing is written. "
)
_TAKES = (
    " Accounts are locked after requests, both in the order of their ids, and a balance changes"
    " only where it covers the amount."
)


def snapshots() -> dict[str, tuple[str, str]]:
    """Return every composed statement, with why it is safe, as `storage/sql/` shows them."""
    found = {
        "create_requests": (INTAKE, _INSERTED),
        "create_requests_take": (INTAKE_AND_TAKE, _INSERTED + _TAKES),
        "use_allowance": (
            USE_ALLOWANCE,
            "Safe under READ COMMITTED: the month's row is locked by its own conditional update.",
        ),
        "move_jobs": (MOVE_ALONE, _GUARDED),
        "leasable_jobs": (LEASABLE, _READ_AHEAD),
        "lease_jobs": (LEASE, _IN_TURN + _GUARDED),
        "select_request": (SELECT_REQUEST, "Reads only: one request with its holds, as one row."),
    }
    for take in (False, True):
        for settle in (False, True):
            for tell in (False, True):
                parts = {"take": take, "settle": settle, "tell": tell}
                name = "".join(f"_{part}" for part, wanted in parts.items() if wanted)
                statement = move(take=take, settle=settle, tell=tell)
                found[f"apply_transitions{name}"] = statement, _GUARDED + _TAKES * (take or settle)
    return found
