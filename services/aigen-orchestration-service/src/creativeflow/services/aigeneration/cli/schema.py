"""The schema revision and the write permissions of the database user."""

from dataclasses import dataclass

from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.queries import Queries

_WRITTEN = ("generation_requests", "generation_events", "holds", "outbox", "idempotency_keys")
"""The tables that every process writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """`revision` is None before the first migration; `read_only` lists the tables without write
    permission; `own_session`: the settings of a session arrive at the server.
    """

    revision: str | None
    read_only: tuple[str, ...] = ()
    own_session: bool = True


async def load_schema_state(database: Database) -> SchemaState:
    """Return the schema state as seen by the user of this connection."""
    own_session = bool(
        await database.fetchval(
            "SELECT current_setting('enable_seqscan') = 'off' AND current_setting('jit') = 'off'"
        )
    )
    revision = await Queries(database).revision()
    if revision is None:
        return SchemaState(revision=None, own_session=own_session)
    rows = await database.fetch(
        """SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL
           AND NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
               AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))""",
        list(_WRITTEN),
    )
    read_only = tuple(str(row["name"]) for row in rows)
    return SchemaState(revision=revision, read_only=read_only, own_session=own_session)
