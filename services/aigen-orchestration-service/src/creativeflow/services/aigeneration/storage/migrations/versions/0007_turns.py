"""Turns of lanes: a dispatcher takes the next one with what it leases, instead of locking the lane
while it looks.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Begin to count."""
    op.get_bind().exec_driver_sql("ALTER TABLE lanes ADD COLUMN turn bigint NOT NULL DEFAULT 0")
