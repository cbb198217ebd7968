"""What the console asks: the timeline by time, requests that ended badly, deliveries given up, the
last comparison.
"""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0008"
down_revision = "0007"

# The timeline grows in the order of time: a block range index finds an hour in it, and costs a
# write next to nothing. The other two indexes are written only when something has gone wrong.
STATEMENTS = """
CREATE INDEX generation_events_at ON generation_events USING brin (at)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX generation_requests_ended_badly ON generation_requests (id)
    WHERE state IN ('FAILED', 'CONTENT_REJECTED', 'CANCELLED', 'EXPIRED');
CREATE INDEX webhook_deliveries_given_up ON webhook_deliveries (updated_at) WHERE state = 'failed';
ALTER TABLE periodic_work ADD COLUMN outcome jsonb;
"""


def upgrade() -> None:
    """Add what is new."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
