"""Flagged accounts, subscription statuses, parked holds, the billing journal, the usage log,
periodic work.
"""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0002"
down_revision = "0001"

STATEMENTS = """
ALTER TABLE credit_accounts ADD COLUMN status text NOT NULL DEFAULT 'active'
    CONSTRAINT credit_accounts_status_is_known
    CHECK (status IN ('active', 'trial', 'suspended', 'cancelled', 'expired'));
ALTER TABLE credit_accounts DROP COLUMN restricted;

CREATE TABLE account_flags (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL,
    reason text NOT NULL,
    hold_key text,
    request_id uuid,
    raised_at timestamptz NOT NULL,
    cleared_at timestamptz,
    cleared_by text,
    note text,
    CONSTRAINT account_flags_cleared_by_somebody CHECK ((cleared_at IS NULL) = (cleared_by IS NULL))
);
CREATE UNIQUE INDEX account_flags_open ON account_flags (user_id, reason, COALESCE(hold_key, ''))
    WHERE cleared_at IS NULL;

ALTER TABLE holds ADD COLUMN parked_at timestamptz, ADD COLUMN parked_reason text;
DROP INDEX holds_placing;
CREATE INDEX holds_placing ON holds (began_at) WHERE state = 'placing' AND parked_at IS NULL;
CREATE INDEX holds_parked ON holds (parked_at) WHERE state = 'placing' AND parked_at IS NOT NULL;
CREATE INDEX holds_by_time ON holds (began_at, key) WHERE funding = 'credits';

UPDATE outbox o SET body = jsonb_build_object('key', h.key, 'user_id', h.user_id, 'amount', h.amount,
                                              'action', h.action)
FROM holds h WHERE o.topic IN ('credits.capture', 'credits.release') AND h.key = o.body->>'key';

CREATE TABLE billing_journal (
    key text PRIMARY KEY,
    user_id text NOT NULL,
    amount integer NOT NULL,
    action text NOT NULL,
    state text NOT NULL CHECK (state IN ('asking', 'held', 'captured', 'refunding', 'released')),
    since timestamptz NOT NULL
);
CREATE INDEX billing_journal_open ON billing_journal (since) WHERE state IN ('asking', 'held', 'refunding');

CREATE TABLE usage_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id uuid NOT NULL,
    user_id text NOT NULL,
    project_id text,
    stage text NOT NULL,
    round integer NOT NULL,
    action text NOT NULL,
    paid_by text NOT NULL CHECK (paid_by IN ('credits', 'allowance', 'plan')),
    amount integer NOT NULL CHECK (amount >= 0 AND (paid_by = 'credits') = (amount > 0)),
    plan text NOT NULL,
    model text,
    at timestamptz NOT NULL,
    UNIQUE (request_id, stage, round)
);
CREATE INDEX usage_log_by_time ON usage_log (at, id);
CREATE INDEX usage_log_by_user ON usage_log (user_id, at, id);

CREATE TABLE periodic_work (
    name text PRIMARY KEY,
    began_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Add what is new; the whole revision is one transaction."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
