"""Webhooks: the targets of service callers, and what became of every event at each of them."""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0003"
down_revision = "0002"

# The relay's own index leaves webhooks out and theirs has them by target: a target that is away
# piles up debts, and nobody else has to look past them. The version before finds its debts without
# its index while both serve.
STATEMENTS = """
CREATE TABLE webhook_targets (
    id uuid PRIMARY KEY,
    owner text NOT NULL,
    url text NOT NULL,
    description text,
    state text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
    disabled_reason text CHECK (disabled_reason IN ('by_caller', 'gone', 'failing')),
    secret text NOT NULL,
    previous_secrets jsonb NOT NULL DEFAULT '[]',
    failing_since timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT webhook_targets_address_is_registered_once UNIQUE (owner, url),
    CONSTRAINT webhook_targets_disabled_has_reason CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL))
);
CREATE INDEX webhook_targets_enabled ON webhook_targets (owner) WHERE state = 'enabled';

CREATE TABLE webhook_deliveries (
    target_id uuid NOT NULL,
    event_id uuid NOT NULL,
    request_id uuid,
    type text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed', 'parked')),
    attempts integer NOT NULL DEFAULT 0,
    last_status integer,
    last_error text,
    duration_ms integer,
    next_attempt_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    delivered_at timestamptz,
    PRIMARY KEY (target_id, event_id)
);
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (target_id, created_at);
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (created_at);

CREATE INDEX outbox_webhooks ON outbox (topic, due_at, id) WHERE parked_reason IS NULL AND topic LIKE 'webhook:%';
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (due_at, id) WHERE parked_reason IS NULL AND topic NOT LIKE 'webhook:%';
"""


def upgrade() -> None:
    """Create everything; the whole revision is one transaction."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
