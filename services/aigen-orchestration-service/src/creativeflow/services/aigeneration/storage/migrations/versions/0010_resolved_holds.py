"""Holds and ledger entries by their time, for the reconciliation and the invariants."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add block range indexes: rows come in the order of these times, and such an index costs a
    write next to nothing.
    """
    for name, columns in (
        ("holds_by_resolution", "holds USING brin (resolved_at)"),
        ("holds_by_beginning", "holds USING brin (began_at)"),
        ("credit_entries_by_time", "credit_entries USING brin (at)"),
    ):
        op.get_bind().exec_driver_sql(
            f"CREATE INDEX {name} ON {columns} WITH (pages_per_range = 32, autosummarize = on)"
        )
