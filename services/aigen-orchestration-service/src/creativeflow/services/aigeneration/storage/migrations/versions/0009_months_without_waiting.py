"""Months of the timeline are created aside and attached: no writer waits, and no right to create is
needed.
"""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0009"
down_revision = "0008"

# CREATE TABLE ... PARTITION OF takes an ACCESS EXCLUSIVE lock on the parent: beside a backup, which
# holds ACCESS SHARE for hours, it waits, and every write waits behind it. ATTACH takes SHARE UPDATE
# EXCLUSIVE, which writes do not conflict with; only the default partition is locked, for at most
# the function's own lock_timeout.
#
# The function runs with the rights of its owner, who migrated. So the service's own role needs no
# right to create.
STATEMENTS = """
CREATE OR REPLACE FUNCTION ensure_events_partition(first date, following date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '250ms' AS $$
DECLARE
    name text := 'generation_events_' || to_char(first, 'YYYY_MM');
BEGIN
    IF first <> date_trunc('month', first)::date OR following <> (first + interval '1 month')::date THEN
        RAISE EXCEPTION 'a partition of the timeline is one whole month' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(name)) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_events_partition'));
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(name)) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE generation_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('ALTER TABLE generation_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   name, first || ' 00:00+00', following || ' 00:00+00');
EXCEPTION WHEN check_violation THEN
    RAISE WARNING 'the timeline already has rows of % outside their month; they stay in the default partition', first;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION ensure_events_partition(date, date) SET search_path = %I, pg_temp',
                   current_schema());
END $$;
SELECT ensure_events_partition(month::date, (month + interval '1 month')::date)
FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                     date_trunc('month', now() AT TIME ZONE 'UTC') + interval '12 months', interval '1 month') month;
"""


def upgrade() -> None:
    """Replace the function; its signature stays, so that the version before goes on calling it."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
