"""The first tables: requests, timeline, holds, outbox, idempotency keys, lanes, and the local
ledger.
"""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0001"
down_revision = None

STATEMENTS = """
CREATE TABLE generation_requests (
    id uuid PRIMARY KEY,
    user_id text NOT NULL,
    project_id text,
    created_by text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text,
    state text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('samples', 'final')),
    round integer NOT NULL CHECK (round >= 1),
    attempt integer NOT NULL CHECK (attempt >= 0),
    job_id uuid,
    version integer NOT NULL CHECK (version >= 1),
    plan text NOT NULL,
    brief jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    samples jsonb NOT NULL DEFAULT '[]',
    sample_failures jsonb NOT NULL DEFAULT '[]',
    selected_sample_id text,
    final_resolution text,
    file_format text NOT NULL,
    max_rounds integer NOT NULL CHECK (max_rounds >= 1),
    final_asset jsonb,
    failure jsonb,
    progress jsonb,
    pending_action jsonb,
    model text,
    ai_model_used text,
    retry_of uuid,
    fair_at double precision,
    due_at timestamptz,
    lease_until timestamptz,
    deadline_at timestamptz,
    remind_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT generation_requests_state_is_known CHECK (state IN (
        'VALIDATING_CREDITS', 'PENDING', 'PUBLISHING_TO_QUEUE', 'PROCESSING_SAMPLES', 'AWAITING_SELECTION',
        'PROCESSING_FINAL', 'COMPLETED', 'FAILED', 'CONTENT_REJECTED', 'CANCELLED', 'EXPIRED')),
    CONSTRAINT generation_requests_live_has_deadline CHECK ((deadline_at IS NULL) = (state IN (
        'COMPLETED', 'FAILED', 'CONTENT_REJECTED', 'CANCELLED', 'EXPIRED'))),
    CONSTRAINT generation_requests_leased_has_lease CHECK (
        (state = 'PUBLISHING_TO_QUEUE') = (lease_until IS NOT NULL))
) WITH (fillfactor = 85);

CREATE INDEX generation_requests_waiting ON generation_requests (stage, fair_at, id) WHERE state = 'PENDING';
CREATE INDEX generation_requests_in_flight ON generation_requests (stage)
    WHERE state IN ('PUBLISHING_TO_QUEUE', 'PROCESSING_SAMPLES', 'PROCESSING_FINAL');
CREATE INDEX generation_requests_share ON generation_requests (user_id, stage, fair_at)
    WHERE state IN ('PENDING', 'PUBLISHING_TO_QUEUE', 'PROCESSING_SAMPLES', 'PROCESSING_FINAL');
CREATE INDEX generation_requests_deadline ON generation_requests (deadline_at) WHERE deadline_at IS NOT NULL;
CREATE INDEX generation_requests_lease ON generation_requests (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX generation_requests_remind ON generation_requests (remind_at) WHERE remind_at IS NOT NULL;
CREATE INDEX generation_requests_by_user ON generation_requests (user_id, id);
CREATE INDEX generation_requests_by_project ON generation_requests (project_id, id) WHERE project_id IS NOT NULL;
CREATE INDEX generation_requests_by_job ON generation_requests (job_id) WHERE job_id IS NOT NULL;

CREATE FUNCTION refuse_life_after_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'request % is % and stays so', OLD.id, OLD.state USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER generation_requests_terminal_is_final BEFORE UPDATE OF state ON generation_requests
    FOR EACH ROW WHEN (OLD.state IN ('COMPLETED', 'FAILED', 'CONTENT_REJECTED', 'CANCELLED', 'EXPIRED'))
    EXECUTE FUNCTION refuse_life_after_the_end();

CREATE SEQUENCE generation_events_seq CACHE 1;
CREATE TABLE generation_events (
    request_id uuid NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('generation_events_seq'),
    version integer,
    event text NOT NULL,
    state text,
    data jsonb NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL,
    PRIMARY KEY (request_id, seq, at)
) PARTITION BY RANGE (at);
CREATE TABLE generation_events_other PARTITION OF generation_events DEFAULT;
CREATE FUNCTION ensure_events_partition(first date, following date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'generation_events_' || to_char(first, 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_events_partition'));
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF generation_events FOR VALUES FROM (%L) TO (%L)',
                   name, first || ' 00:00+00', following || ' 00:00+00');
EXCEPTION WHEN check_violation THEN
    RAISE WARNING 'the timeline already has rows of % outside their month; they stay in the default partition', first;
END $$;

CREATE TABLE holds (
    key text PRIMARY KEY,
    request_id uuid NOT NULL,
    user_id text NOT NULL,
    stage text NOT NULL,
    round integer NOT NULL,
    action text NOT NULL,
    funding text NOT NULL CHECK (funding IN ('credits', 'allowance')),
    amount integer NOT NULL CHECK (amount >= 0 AND (funding = 'credits') = (amount > 0)),
    month date,
    state text NOT NULL CHECK (state IN ('placing', 'held', 'captured', 'released', 'refused')),
    began_at timestamptz NOT NULL,
    resolved_at timestamptz,
    settled_at timestamptz,
    CONSTRAINT holds_allowance_has_month CHECK ((funding = 'allowance') = (month IS NOT NULL))
);
CREATE INDEX holds_by_request ON holds (request_id);
CREATE INDEX holds_by_user ON holds (user_id, began_at);
CREATE INDEX holds_placing ON holds (began_at) WHERE state = 'placing';

CREATE FUNCTION refuse_second_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'hold % cannot go from % to %', OLD.key, OLD.state, NEW.state USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER holds_are_resolved_once BEFORE UPDATE OF state ON holds FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND NOT (
        (OLD.state = 'placing' AND NEW.state IN ('held', 'refused', 'released'))
        OR (OLD.state = 'held' AND NEW.state IN ('captured', 'released'))
        OR (OLD.state = 'refused' AND NEW.state = 'placing')))
    EXECUTE FUNCTION refuse_second_resolution();

CREATE TABLE free_usage (
    user_id text NOT NULL,
    month date NOT NULL,
    used integer NOT NULL CHECK (used >= 0),
    PRIMARY KEY (user_id, month)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id uuid,
    topic text NOT NULL,
    body jsonb NOT NULL,
    due_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    lease_token uuid,
    leased_until timestamptz,
    last_error text,
    parked_reason text,
    created_at timestamptz NOT NULL
);
CREATE INDEX outbox_due ON outbox (due_at, id) WHERE parked_reason IS NULL;
CREATE INDEX outbox_by_request ON outbox (request_id, topic, id) WHERE parked_reason IS NULL;
CREATE INDEX outbox_parked ON outbox (id) WHERE parked_reason IS NOT NULL;

CREATE TABLE idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    request_id uuid NOT NULL,
    status integer,
    location text,
    body text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (principal, key),
    CONSTRAINT idempotency_keys_answer_is_whole CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_keys_open ON idempotency_keys (request_id) WHERE status IS NULL;
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE lanes (
    lane text PRIMARY KEY,
    virtual_time double precision NOT NULL DEFAULT 0
);
INSERT INTO lanes (lane) VALUES ('samples'), ('final');

CREATE TABLE credit_accounts (
    user_id text PRIMARY KEY,
    plan text NOT NULL DEFAULT 'free',
    balance bigint NOT NULL DEFAULT 0,
    restricted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credit_accounts_floor CHECK (balance >= 0)
);
CREATE TABLE credit_entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation text NOT NULL,
    account text NOT NULL,
    amount bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('grant', 'hold', 'capture', 'release')),
    reason text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (operation, account)
);
CREATE INDEX credit_entries_by_account ON credit_entries (account, id);
CREATE FUNCTION refuse_rewriting_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger entries are never changed or deleted' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER credit_entries_append_only BEFORE UPDATE OR DELETE ON credit_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_rewriting_history();
"""


def upgrade() -> None:
    """Create everything; the whole revision is one transaction."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
