"""What we asked of a billing service that remembers nothing: one row for each key, written before
and after each call.

The row is the memory that makes such a service idempotent: a key is asked for once, and an answer
that never came is seen as what it is. Amounts in 1/100 credit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from creativeflow.services.aigeneration.storage.database import Database


class JournalState(StrEnum):
    """Where a key stands; `asking` and `refunding` are in doubt until an answer is written."""

    ASKING = "asking"
    HELD = "held"
    CAPTURED = "captured"
    REFUNDING = "refunding"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One key; `since` is when it came into this state."""

    key: str
    user_id: str
    amount: int
    action: str
    state: JournalState
    since: datetime


class BillingJournal:
    """Keys and their states; every change names the state it comes from, so that only one caller
    makes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, entry: JournalEntry) -> bool:
        """Write a key for the first time; False when it is there already."""
        tag = await self._database.execute(
            """INSERT INTO billing_journal (key, user_id, amount, action, state, since)
                VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (key) DO NOTHING""",
            entry.key,
            entry.user_id,
            entry.amount,
            entry.action,
            entry.state,
            entry.since,
        )
        return tag == "INSERT 0 1"

    async def find(self, key: str) -> JournalEntry | None:
        """What is written under a key."""
        row = await self._database.fetchrow("SELECT * FROM billing_journal WHERE key = $1", key)
        return _entry(dict(row)) if row else None

    async def update_state(
        self, key: str, before: JournalState, after: JournalState, now: datetime
    ) -> bool:
        """Write what became of a key; False when it was not in the state `before`."""
        tag = await self._database.execute(
            "UPDATE billing_journal SET state = $3, since = $4 WHERE key = $1 AND state = $2",
            key,
            before,
            after,
            now,
        )
        return tag == "UPDATE 1"

    async def forget(self, key: str) -> None:
        """Free a key whose call surely did nothing."""
        await self._database.execute(
            "DELETE FROM billing_journal WHERE key = $1 AND state = 'asking'", key
        )

    async def outstanding(self, before: datetime, most: int) -> list[JournalEntry]:
        """Keys that are held or in doubt since before that moment, the oldest first."""
        found = await self._database.fetch(
            """SELECT * FROM billing_journal WHERE state IN ('asking', 'held', 'refunding')
                AND since < $1
               ORDER BY since LIMIT $2""",
            before,
            most,
        )
        return [_entry(dict(row)) for row in found]


def _entry(row: Mapping[str, Any]) -> JournalEntry:
    return JournalEntry(**{**row, "state": JournalState(row["state"])})
