"""Which model was chosen for a request, and why."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add what is new; requests from before have none and go on with the model they named."""
    op.execute("ALTER TABLE generation_requests ADD COLUMN route jsonb")
