"""Holds by the time of their resolution, for the reconciliation."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add a block range index: resolutions come in the order of time, and it costs a write next to
    nothing.
    """
    op.get_bind().exec_driver_sql(
        "CREATE INDEX holds_by_resolution ON holds USING brin (resolved_at)"
        " WITH (pages_per_range = 32, autosummarize = on)"
    )
