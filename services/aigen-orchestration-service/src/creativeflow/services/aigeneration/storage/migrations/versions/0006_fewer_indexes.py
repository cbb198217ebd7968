"""Fewer indexes on requests: each one costs every move, and a job's id is never looked for without
its request.
"""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0006"
down_revision = "0005"

STATEMENTS = """
CREATE INDEX generation_requests_next_look ON generation_requests ((LEAST(deadline_at, lease_until, remind_at)))
    WHERE deadline_at IS NOT NULL;
DROP INDEX generation_requests_deadline;
DROP INDEX generation_requests_lease;
DROP INDEX generation_requests_remind;
DROP INDEX generation_requests_by_job;
"""


def upgrade() -> None:
    """One index for whatever comes next: the deadline, the lease's end or the reminder."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
