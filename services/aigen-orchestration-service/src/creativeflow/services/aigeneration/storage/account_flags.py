"""Accounts with a money fault that nobody could undo: flagged, restricted, and cleared by an
operator (REQ-016).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit

HOLD_UNDECIDED = "hold_undecided"
"""The credit service may or may not have taken the money, and cannot be asked."""
CHARGE_FAILED = "charge_failed"
"""What was delivered could not be charged."""
REFUND_FAILED = "refund_failed"
"""What was not delivered could not be given back."""

CONTENT_ABUSE = "content_abuse"
"""Severely refused prompts came again and again."""

# The user is told in the same statement, by a message of its own; `flag` selects user_id, reason,
# hold_key, request_id.
RAISE = """
raised AS (
    INSERT INTO account_flags (user_id, reason, hold_key, request_id, raised_at)
    SELECT user_id, reason, hold_key, request_id, {now} FROM flag
    ON CONFLICT (user_id, reason, COALESCE(hold_key, '')) WHERE cleared_at IS NULL DO NOTHING
    RETURNING user_id, reason, request_id
), told AS (
    INSERT INTO outbox (request_id, topic, body, due_at, created_at)
    SELECT f.request_id, 'notification.send', jsonb_build_object(
        'event_id', gen_random_uuid(), 'event_type', 'credits_problem', 'user_id', f.user_id,
        'correlation_id', COALESCE(r.correlation_id, ''), 'locale', r.brief->>'locale',
        'at', to_char({now}::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', jsonb_build_object('generation_request_id', f.request_id, 'reason', f.reason)),
            {now}, {now}
    FROM raised f LEFT JOIN generation_requests r ON r.id = f.request_id
)"""


class AccountFlags:
    """The open flags of accounts; raising the same one twice is one flag."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._flagged = GroupCommit(self._load_flagged, key=lambda user_id: user_id)

    async def flagged(self, user_id: str) -> bool:
        """Whether the account is restricted; asked together with others that wait at the same
        moment.
        """
        return await self._flagged.submit(user_id)

    async def _load_flagged(self, user_ids: Sequence[str]) -> list[bool]:
        found = await self._database.fetch(
            "SELECT DISTINCT user_id FROM account_flags WHERE cleared_at IS NULL AND user_id ="
            " ANY($1::text[])",
            list(user_ids),
        )
        known = {row["user_id"] for row in found}
        return [user_id in known for user_id in user_ids]

    async def raise_(self, user_id: str, reason: str, now: datetime) -> None:
        """Flag an account for a reason of its own, without a hold; the user is told."""
        await self._database.execute(
            f"""WITH flag AS (SELECT $1::text AS user_id, $2::text AS reason,
                NULL::text AS hold_key,
                                     NULL::uuid AS request_id), {RAISE.format(now="$3")}
                                         SELECT 1""",
            user_id,
            reason,
            now,
        )

    async def clear(self, user_id: str, *, by: str, note: str, now: datetime) -> int:
        """Lift the restriction; how many flags were open. Who did it and why stays with each."""
        return await self._database.execute_counted(
            """UPDATE account_flags SET cleared_at = $2, cleared_by = $3, note = $4
               WHERE user_id = $1 AND cleared_at IS NULL""",
            user_id,
            now,
            by,
            note,
        )

    async def open_flags(self, most: int, user_id: str | None = None) -> list[dict[str, Any]]:
        """Flags that are not cleared, the oldest first."""
        found = await self._database.fetch(
            """SELECT id, user_id, reason, hold_key, request_id, raised_at FROM account_flags
               WHERE cleared_at IS NULL AND ($2::text IS NULL OR user_id = $2) ORDER BY id
                   LIMIT $1""",
            most,
            user_id,
        )
        return [dict(row) for row in found]
