"""The statements that write and find requests, composed of the parts that a batch needs.

A writing statement takes a batch of changes as one parameter, as `request_rows.py` makes them, and
is executed whole or not at all. The composed statements can be read in `storage/sql/`.
"""

from collections.abc import Collection, Sequence
from functools import cache

from creativeflow.services.aigeneration.storage.ledger import SET_ASIDE, SETTLING, TAKING
from creativeflow.services.aigeneration.storage.state_sets import SQL_IN_FLIGHT, SQL_WITH_JOB

# One parameter carries the whole batch; jsonb_to_recordset turns its lists into rows of these
# types.
_CHANGES = """
jsonb_to_recordset($1::jsonb->'changes') AS c(
        id uuid, was int, version int, at timestamptz, from_state text, weight float8, queues bool,
        user_id text, project_id text, created_by text, correlation_id text, traceparent text,
        state text, stage text, round int, attempt int, job_id uuid, plan text,
        brief jsonb, metadata jsonb, samples jsonb, sample_failures jsonb,
        selected_sample_id text, final_resolution text, file_format text,
        final_asset jsonb, failure jsonb, progress jsonb, pending_action jsonb, route jsonb,
        model text, ai_model_used text, retry_of uuid, max_rounds int,
        due_at timestamptz, lease_until timestamptz, deadline_at timestamptz, remind_at timestamptz,
        allowance_month date, entries jsonb, messages jsonb, holds jsonb, usage jsonb,
        principal text, key text, fingerprint text, status int, location text, body text,
        take_key text, take_amount bigint, take_action text, webhook jsonb,
        lease jsonb, lane_window int, per_user int)"""
_JOBS = """
jsonb_to_recordset({source}) AS c(
    id uuid, was int, version int, at timestamptz, from_state text, state text, attempt int,
    job_id uuid, progress jsonb, route jsonb, model text, due_at timestamptz,
    lease_until timestamptz, deadline_at timestamptz, entries jsonb)"""
_DELIVERED = """
jsonb_to_recordset($1::jsonb->'delivered') AS c(
    message bigint, token uuid, event text, at timestamptz)"""

_GUARD = "r.id = c.id AND r.version = c.was AND r.state = c.from_state"

# Start-time fair queuing: a user's next job starts where the user's last unfinished one ended,
# never before the lane's virtual time. Heavier plans advance by less.
_FAIR_AT = f"""
           CASE WHEN c.queues THEN
               GREATEST(l.virtual_time, COALESCE((
                   SELECT max(q.fair_at) + 1 / c.weight FROM generation_requests q
                   WHERE q.user_id = c.user_id AND q.stage = c.stage
                     AND q.state IN {SQL_WITH_JOB}), 0))
               + (row_number() OVER (PARTITION BY c.user_id, c.stage, c.queues
                                     ORDER BY c.id) - 1) / c.weight
           END AS fair_at"""  # noqa: S608 - a constant of this module

# `key_used`: the idempotency key is already committed. Such a change writes nothing and is reported
# as a result; only a key that another transaction is claiming at this very moment violates the
# primary key and fails the statement.
#
# `SELECT ... LIMIT 1` instead of EXISTS here and below: with EXISTS the planner may read the whole
# table into a hash, because it does not know how few rows a batch has.
_KEY_USED = """
           c.key IS NOT NULL AND COALESCE((
               SELECT true FROM idempotency_keys k
               WHERE k.principal = c.principal AND k.key = c.key LIMIT 1), false) AS key_used"""


def _change(parts: Collection[str]) -> str:
    """The changes as rows, in the order of their ids, with what the database knows of each."""
    queues = "queue" in parts
    columns = ",".join(
        (
            "c.*",
            _FAIR_AT if queues else " NULL::float8 AS fair_at",
            _KEY_USED if "key" in parts else " false AS key_used",
        )
    )
    lanes = " LEFT JOIN lanes l ON c.queues AND l.lane = c.stage" if queues else ""
    rows = f"SELECT {columns} FROM {_CHANGES}{lanes} ORDER BY c.id"  # noqa: S608 - as above
    if "lease" not in parts:
        return f"change AS MATERIALIZED (\n    SELECT c.*, false AS leased FROM ({rows}) c\n)"  # noqa: S608
    return f"asked AS MATERIALIZED (\n    {rows}\n), {_LEASED_AT_ONCE}"


# A job may be leased by the statement that queues it: where nobody waits in its lane and both the
# lane's window and the user's share have room. As a dispatcher does, the statement takes the lane's
# turn, so that of two that counted the same jobs only one leases. It never waits for the lane: a
# lane that is locked, or whose turn was taken since this statement began, leaves the job to a
# dispatcher.
_LEASED_AT_ONCE = f"""lane AS MATERIALIZED (
    SELECT l.lane, seen.jobs FROM (
        SELECT n.lane, n.turn, (
                   SELECT count(*) FROM generation_requests r
                   WHERE r.stage = n.lane AND r.state IN {SQL_IN_FLIGHT}) AS jobs
        FROM lanes n
        WHERE n.lane IN (SELECT stage FROM asked WHERE lease IS NOT NULL) AND NOT EXISTS (
            SELECT FROM generation_requests w
            WHERE w.state = 'PENDING' AND w.stage = n.lane
              AND w.due_at <= (SELECT max(at) FROM asked))) seen
    JOIN lanes l ON l.lane = seen.lane AND l.turn = seen.turn
    ORDER BY l.lane FOR UPDATE OF l SKIP LOCKED
), change AS MATERIALIZED (
    SELECT c.*, c.lease IS NOT NULL AND NOT c.key_used AND COALESCE(
               l.jobs + row_number() OVER (PARTITION BY c.stage, c.lease IS NULL
                                           ORDER BY c.fair_at, c.id)
                   <= c.lane_window, false)
           AND row_number() OVER (PARTITION BY c.user_id, c.stage, c.lease IS NULL ORDER BY c.id)
               + (SELECT count(*) FROM generation_requests q
                  WHERE q.user_id = c.user_id AND q.stage = c.stage AND q.state IN {SQL_IN_FLIGHT})
               <= c.per_user AS leased
    FROM asked c LEFT JOIN lane l ON c.lease IS NOT NULL AND l.lane = c.stage ORDER BY c.id
)"""  # noqa: S608 - as above

_TURN_TAKEN = """
turn AS (
    UPDATE lanes l SET turn = turn + 1, virtual_time = GREATEST(virtual_time, t.reached)
    FROM (SELECT stage, max(fair_at) AS reached FROM written WHERE leased GROUP BY stage) t
    WHERE l.lane = t.stage
)"""

_USE_ALLOWANCE = """
    INSERT INTO free_usage AS u (user_id, month, used)
    SELECT user_id, allowance_month, count(*) FROM change
    WHERE allowance_month IS NOT NULL AND NOT key_used {condition}
    GROUP BY user_id, allowance_month HAVING count(*) <= ($1::jsonb->>'free')::int ORDER BY user_id
    ON CONFLICT (user_id, month) DO UPDATE SET used = u.used + excluded.used
        WHERE u.used + excluded.used <= ($1::jsonb->>'free')::int
    RETURNING u.user_id, u.month"""

# The key of the change is its own here, claimed by the transition before it in the transaction.
USE_ALLOWANCE = f"WITH {_change(())} {_USE_ALLOWANCE.format(condition='')}"
"""The month's count alone, for a move in the same transaction; returns nothing where it is used up.
"""

_STATE = "CASE WHEN c.leased THEN 'PUBLISHING_TO_QUEUE' ELSE c.state END"
_VERSION = "c.version + c.leased::int"
_ROUTE = "CASE WHEN c.leased THEN c.lease->'route' END"
_MODEL = "CASE WHEN c.leased THEN c.lease->>'model' ELSE c.model END"
_LEASE_UNTIL = (
    "CASE WHEN c.leased THEN (c.lease->>'lease_until')::timestamptz ELSE c.lease_until END"
)
_IF_ALLOWED = """AND (c.allowance_month IS NULL OR EXISTS (
        SELECT FROM allowance a WHERE a.user_id = c.user_id AND a.month = c.allowance_month))"""
_IF_TAKEN = "AND (c.take_key IS NULL OR c.id IN (SELECT id FROM taken))"


def _stored(parts: Collection[str]) -> str:
    """The new requests."""
    return f"""
stored AS (
    INSERT INTO generation_requests (
        id, user_id, project_id, created_by, correlation_id, traceparent,
        state, stage, round, attempt, job_id, version, plan, brief, metadata, max_rounds,
        file_format, pending_action, route, model, retry_of, fair_at,
        due_at, lease_until, deadline_at, created_at, updated_at)
    SELECT c.id, c.user_id, c.project_id, c.created_by, c.correlation_id, c.traceparent,
           {_STATE}, c.stage, c.round, c.attempt, c.job_id, {_VERSION}, c.plan, c.brief,
           c.metadata, c.max_rounds, c.file_format, c.pending_action, COALESCE({_ROUTE}, c.route),
           {_MODEL}, c.retry_of, c.fair_at, c.due_at, {_LEASE_UNTIL}, c.deadline_at, c.at, c.at
    FROM change c
    WHERE c.from_state IS NULL AND NOT c.key_used {_IF_ALLOWED if "allowance" in parts else ""}
      {_IF_TAKEN if "take" in parts else ""}
    RETURNING id
)"""  # noqa: S608 - joined from constants of this module


def _moved(parts: Collection[str]) -> str:
    """The requests that are there already."""
    return f"""
moved AS (
    UPDATE generation_requests r SET
        state = {_STATE}, stage = c.stage, round = c.round, attempt = c.attempt,
        job_id = c.job_id, version = {_VERSION}, plan = c.plan, brief = COALESCE(c.brief, r.brief),
        samples = COALESCE(c.samples, '[]'), sample_failures = COALESCE(c.sample_failures, '[]'),
        selected_sample_id = c.selected_sample_id, final_resolution = c.final_resolution,
        file_format = c.file_format, final_asset = c.final_asset,
        failure = c.failure, progress = c.progress, pending_action = c.pending_action,
        route = COALESCE({_ROUTE}, c.route, r.route), model = {_MODEL},
        ai_model_used = c.ai_model_used, due_at = c.due_at, lease_until = {_LEASE_UNTIL},
        deadline_at = c.deadline_at, remind_at = c.remind_at, updated_at = c.at,
        fair_at = COALESCE(c.fair_at, r.fair_at)
    FROM change c
    WHERE {_GUARD} AND NOT c.key_used {_IF_LOCKED if _locks(parts) else ""}
      {_IF_TAKEN if "take" in parts else ""}
    RETURNING c.id, r.project_id, r.created_by
)"""  # noqa: S608 - as above


_WRITTEN_NEW = """
    SELECT c.*, c.project_id AS of_project, c.created_by AS of_caller FROM change c
    WHERE c.id IN (SELECT id FROM stored)"""
_WRITTEN_MOVED = """
    SELECT c.*, m.project_id AS of_project, m.created_by AS of_caller
    FROM change c JOIN moved m ON m.id = c.id"""

# Where a statement updates requests in two places, or takes credits for some, all its requests are
# locked at first: so the order of their ids is the order of their locks, and credits are taken only
# for a request that the guard lets through.
_LOCKED = """
locked AS MATERIALIZED (
    SELECT c.id FROM ({rows}) c
    JOIN generation_requests r ON {guard}
    ORDER BY c.id FOR UPDATE OF r
)"""
_LOCKED_MOVES = (
    "SELECT id, was, from_state FROM change WHERE from_state IS NOT NULL AND NOT key_used"
)
_LOCKED_JOBS = "SELECT id, was, from_state FROM job"
_IF_LOCKED = "AND c.id IN (SELECT id FROM locked)"
_NEW_PAYERS = """
    SELECT id, user_id, take_key, take_amount, key_used FROM change WHERE from_state IS NULL"""
_OLD_PAYERS = """
    SELECT c.id, c.user_id, c.take_key, c.take_amount, c.key_used
    FROM change c JOIN locked ON locked.id = c.id"""

# A job that is leased, confirmed or begun touches little of its request, and nothing else: half of
# all transitions.
_WORKED = f"""
UPDATE generation_requests r SET
    state = c.state, version = c.version, attempt = c.attempt, job_id = c.job_id,
    progress = c.progress, route = COALESCE(c.route, r.route), model = c.model,
    due_at = c.due_at, lease_until = c.lease_until, deadline_at = c.deadline_at,
    updated_at = c.at
FROM {{rows}}
WHERE {_GUARD}"""  # noqa: S608 - as above

_GONE = f"""
gone AS MATERIALIZED (
    DELETE FROM outbox o USING {_DELIVERED}
    WHERE o.id = c.message AND o.lease_token = c.token
    RETURNING o.id, o.request_id, o.topic, o.body, c.event, c.at
), settled AS (
    UPDATE holds h SET settled_at = gone.at FROM gone
    WHERE gone.topic LIKE 'credits.%' AND h.key = gone.body->>'key'
)"""  # noqa: S608 - as above

_LINES_OF_CHANGES = """
        SELECT c.id, e->>'event' AS event, (e->>'version')::int AS version, e->>'state' AS state,
               COALESCE(e->'data', '{}') AS data, COALESCE((e->>'at')::timestamptz, c.at) AS at, nth
        FROM written c, jsonb_array_elements(
            CASE WHEN c.leased THEN c.entries || (c.lease->'entries') ELSE c.entries END)
            WITH ORDINALITY entries(e, nth)"""
_LINES_OF_JOBS = """
        SELECT c.id, e->>'event' AS event, (e->>'version')::int AS version, e->>'state' AS state,
               COALESCE(e->'data', '{}') AS data, COALESCE((e->>'at')::timestamptz, c.at) AS at, nth
        FROM worked c, jsonb_array_elements(c.entries) WITH ORDINALITY entries(e, nth)"""
# A settled capture follows what it paid for.
_LINES_OF_CAPTURES = """
        SELECT s.id, 'credits_captured' AS event, NULL::int AS version, NULL AS state,
               jsonb_build_object('hold', s.key) AS data, s.at, 99::bigint AS nth
        FROM settling s"""
_LINES_OF_MESSAGES = """
        SELECT request_id AS id, event, NULL::int AS version, NULL AS state,
               jsonb_strip_nulls(jsonb_build_object(
                   'event_type', body->'event_type', 'event_id', body->'event_id',
                   'hold', body->'key')) AS data, at, id AS nth
        FROM gone WHERE request_id IS NOT NULL"""


def _entry(sources: Sequence[str]) -> str:
    """The timeline's entries of everything that is written."""
    return f"""
entry AS (
    INSERT INTO generation_events (request_id, version, event, state, data, at)
    SELECT id, version, event, state, data, at FROM ({"        UNION ALL".join(sources)}) lines
    ORDER BY id, nth
)"""  # noqa: S608 - joined from constants of this module


def _messages(parts: Collection[str]) -> str:
    """The outbox messages, except captures that this statement settles itself.

    A message of a topic that this process delivers itself is born leased to it, unless an earlier
    one of its request is still there: then it waits for its turn.
    """
    owed = """
      AND (d->>'topic' <> 'credits.capture'
           OR d->'body'->>'key' NOT IN (SELECT key FROM settling))"""
    return f"""
message AS (
    INSERT INTO outbox (
        request_id, topic, body, due_at, created_at, attempts, lease_token, leased_until)
    SELECT m.id, m.topic, m.body, m.at, m.at, m.own::int,
           CASE WHEN m.own THEN ($1::jsonb->>'token')::uuid END,
           CASE WHEN m.own THEN ($1::jsonb->>'leased_until')::timestamptz END
    FROM (SELECT c.id, d->>'topic' AS topic, d->'body' AS body, c.at,
                 $1::jsonb->'own_topics' @> (d->'topic') IS TRUE AND COALESCE((
                     SELECT false FROM outbox e WHERE e.request_id = c.id AND e.topic = d->>'topic'
                         AND e.parked_reason IS NULL LIMIT 1), true) AS own
          FROM written c, jsonb_array_elements(c.messages) d
          WHERE true {owed if "settle" in parts else ""}) m
    RETURNING id, request_id, topic, lease_token
)"""  # noqa: S608 - as above


def _hold(parts: Collection[str]) -> str:
    settled = (
        ", settled_at = CASE WHEN h.key IN (SELECT key FROM settling) THEN excluded.began_at END"
    )
    return f"""
hold AS (
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
        {settled if "settle" in parts else ""}
), given_back AS (
    UPDATE free_usage u SET used = u.used - g.given FROM (
        SELECT c.user_id, n.month, count(*) AS given
        FROM written c, jsonb_to_recordset(c.holds) AS n(month date, funding text, state text)
        WHERE n.funding = 'allowance' AND n.state = 'released' GROUP BY c.user_id, n.month) g
    WHERE u.user_id = g.user_id AND u.month = g.month
)"""  # noqa: S608 - as above


_USED = """
used AS (
    INSERT INTO usage_log (
        request_id, user_id, project_id, stage, round, action, paid_by, amount, plan, model, at)
    SELECT c.id, c.user_id, c.of_project, u.stage, u.round, u.action, u.paid_by, u.amount,
           c.plan, u.model, c.at
    FROM written c, jsonb_to_recordset(c.usage) AS u(
        stage text, round int, action text, paid_by text, amount int, model text)
)"""
_KEYS = """
claimed AS (
    INSERT INTO idempotency_keys (
        principal, key, fingerprint, request_id, status, location, body, created_at)
    SELECT c.principal, c.key, c.fingerprint, c.id, c.status, c.location, c.body, c.at
    FROM written c WHERE c.key IS NOT NULL
), answered AS (
    UPDATE idempotency_keys k SET status = c.status, location = c.location, body = c.body
    FROM written c
    WHERE k.request_id = c.id AND k.status IS NULL AND c.key IS NULL AND c.status IS NOT NULL
)"""

# What a change announces goes to every enabled endpoint of the caller that made the request, each
# with a message of its own.
_TOLD = """
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

_CHANGES_OF_REQUESTS = {"births", "moves", "queue", "lease", "take", "hold", "key"}
_RESULTS = {"moves", "settle", "hold", "message", "usage", "tell", "jobs", "delivered"}
VARIANTS = {
    name: frozenset(parts)
    for name, parts in {
        "jobs": {"jobs"},
        "delivered": {"delivered"},
        "create": _CHANGES_OF_REQUESTS - {"moves"},
        "order": _CHANGES_OF_REQUESTS - {"births"},
        "results": _RESULTS,
        "common": _CHANGES_OF_REQUESTS | _RESULTS,
        "all": _CHANGES_OF_REQUESTS | _RESULTS | {"allowance"},
    }.items()
}
"""The statements that write a batch, by their parts: births and moves are changes of requests, jobs
are changes of a request's job alone, delivered are outbox messages, the others are what changes
write beside their request. Few, because each is planned once for a connection.
"""


def write(needed: Collection[str], *, settle: bool = True) -> str:
    """Return the smallest statement that has all these parts.

    `settle`: False leaves captures in the outbox; the credits are not in this database.
    """
    parts = next(parts for parts in VARIANTS.values() if parts.issuperset(needed))
    return _build(parts if settle else parts - {"settle"})


@cache
def _build(parts: frozenset[str]) -> str:
    """Compose a statement of these parts."""
    with_changes = not parts.isdisjoint({"births", "moves"})
    ctes: list[str] = []
    sources: list[str] = []
    results: list[str] = []
    if "jobs" in parts:
        rows = _JOBS.format(source="$1::jsonb->'jobs'")
        ctes.append(f"job AS MATERIALIZED (SELECT * FROM {rows}\n)")  # noqa: S608 - as above
    if with_changes:
        ctes += _ctes_of_changes(parts)
        sources.append(_LINES_OF_CHANGES)
        results.append(
            "SELECT id, CASE WHEN leased THEN 'leased' ELSE 'written' END AS outcome,"
            " NULL::bigint AS message, NULL AS topic FROM written"
        )
        if "key" in parts:
            results.append("SELECT id, 'key_used', NULL, NULL FROM change WHERE key_used")
        if "take" in parts:
            results.append(
                "SELECT id, 'not_taken', NULL, NULL FROM payer"
                " WHERE take_key IS NOT NULL AND NOT key_used"
                " AND id NOT IN (SELECT id FROM written)"
            )
        if "message" in parts:
            results.append(
                "SELECT request_id, 'message', id, topic FROM message WHERE lease_token IS NOT NULL"
            )
    if "settle" in parts:
        sources.append(_LINES_OF_CAPTURES)
    if "jobs" in parts:
        worked = _WORKED.format(rows="job c")
        worked += f" {_IF_LOCKED}" if _locks(parts) else ""
        ctes.append(f"\nworked AS ({worked}\n    RETURNING c.id, c.at, c.entries\n)")
        sources.append(_LINES_OF_JOBS)
        results.append(
            "SELECT id, 'written' AS outcome, NULL::bigint AS message, NULL AS topic FROM worked"
        )
    if "delivered" in parts:
        ctes.append(_GONE)
        sources.append(_LINES_OF_MESSAGES)
        results.append("SELECT NULL::uuid AS id, 'gone' AS outcome, id AS message, topic FROM gone")
    ctes.append(_entry(sources))
    return f"WITH {','.join(ctes)}\n{' UNION ALL '.join(results)}"


def _locks(parts: Collection[str]) -> bool:
    return "moves" in parts and not {"jobs", "take"}.isdisjoint(parts)


def _ctes_of_changes(parts: frozenset[str]) -> list[str]:
    births, moves, takes = (name in parts for name in ("births", "moves", "take"))
    ctes = ["\n" * ("jobs" in parts) + _change(parts)]
    if "allowance" in parts:
        ctes.append(
            f"\nallowance AS ({_USE_ALLOWANCE.format(condition='AND from_state IS NULL')}\n)"
        )
    if _locks(parts):
        rows = [_LOCKED_MOVES] + [_LOCKED_JOBS] * ("jobs" in parts)
        ctes.append(_LOCKED.format(rows=" UNION ALL ".join(rows), guard=_GUARD))
    if takes:
        payers = [_NEW_PAYERS] * births + [_OLD_PAYERS] * moves
        ctes.append(f"\npayer AS MATERIALIZED ({' UNION ALL'.join(payers)}\n)")
        ctes.append(TAKING.format(rows="payer"))
    ctes += [_stored(parts)] * births + [_moved(parts)] * moves
    written = [_WRITTEN_NEW] * births + [_WRITTEN_MOVED] * moves
    ctes.append(f"\nwritten AS MATERIALIZED ({' UNION ALL'.join(written)}\n)")
    optional = {
        "settle": SETTLING,
        "take": SET_ASIDE,
        "lease": _TURN_TAKEN,
        "hold": _hold(parts),
        "message": _messages(parts),
        "usage": _USED,
        "key": _KEYS,
        "tell": _TOLD,
    }
    return ctes + [text for name, text in optional.items() if name in parts]


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
), worked AS ({_WORKED.format(rows=_JOBS.format(source="$1::jsonb"))}
      AND EXISTS (SELECT FROM turn)
    RETURNING c.id, c.at, c.entries
), {_entry([_LINES_OF_JOBS])}
SELECT id FROM worked"""  # noqa: S608 - as above

SELECT_REQUEST = f"""
{_WITH_HOLDS}
FROM generation_requests r"""

NEXT_LOOK = "LEAST(r.deadline_at, r.lease_until, r.remind_at)"
"""When time has something to say to a request, as the index has it."""


_WRITES = (
    "Safe under READ COMMITTED. A request that is there is updated only with the version and the"
    " state that the change was decided on: a concurrent transaction that was faster makes the"
    " guard false after its commit, and nothing else of the change is written, because everything"
    " reads from `written`. New rows of a concurrent statement with the same idempotency key"
    " violate the primary key and fail it; a key that is committed is returned as `key_used`."
)
_TAKES = (
    " Requests are locked before accounts, both in the order of their ids, and a balance changes"
    " only where it covers the amount."
)
_LEASES = (
    " Of two statements that counted the same jobs in flight only one takes the lane's turn; the"
    " other leaves its jobs to a dispatcher."
)
_DELIVERS = " Only the token of the current lease deletes a message."
_READ_AHEAD = (
    "Reads only, without locks: what it found is outdated once another dispatcher takes the lane's"
    " turn, and `lease_jobs` then writes nothing."
)
_IN_TURN = (
    "Safe under READ COMMITTED: only one dispatcher takes a turn of the lane, which the update of"
    " its row decides; with another turn nothing is written. "
)


def snapshots() -> dict[str, tuple[str, str]]:
    """Return every composed statement, with why it is safe, as `storage/sql/` shows them."""
    found = {
        "use_allowance": (
            USE_ALLOWANCE,
            "Safe under READ COMMITTED: the month's row is locked by its own conditional update.",
        ),
        "leasable_jobs": (LEASABLE, _READ_AHEAD),
        "lease_jobs": (LEASE, _IN_TURN + _WRITES),
        "select_request": (SELECT_REQUEST, "Reads only: one request with its holds, as one row."),
    }
    for name, parts in VARIANTS.items():
        why = _WRITES + _TAKES * ("take" in parts) + _LEASES * ("lease" in parts)
        found[f"write_{name}"] = _build(parts), why + _DELIVERS * ("delivered" in parts)
    return found
