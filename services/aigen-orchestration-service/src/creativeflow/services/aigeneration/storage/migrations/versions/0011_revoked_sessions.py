"""Sessions of the pages that were signed out before they expired."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the list of revoked sessions."""
    connection = op.get_bind()
    connection.exec_driver_sql(
        "CREATE TABLE revoked_sessions (id text PRIMARY KEY, expires_at timestamptz NOT NULL)"
    )
    connection.exec_driver_sql(
        "CREATE INDEX revoked_sessions_expiry ON revoked_sessions (expires_at)"
    )
