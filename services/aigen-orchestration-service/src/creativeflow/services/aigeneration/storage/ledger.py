"""The local ledger: double-entry, append-only, every operation summing to zero.

A user's account is `user:<id>`, what is set aside lies in `held:<key>`, captured credits go to
`revenue`, and grants come from `issued`. The account row is locked by its one guarded update, so a
balance never falls below zero however many callers there are. Amounts in 1/100 credit.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import asyncpg

from creativeflow.services.aigeneration.domain.pricing import FREE, PLANS, SubscriptionStatus
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit

# No batch has two holds of one user, and they come in the order of their users, as every batch's
# do.
_HOLD = """
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS a(key, user_id,
        amount, action)
), taken AS (
    UPDATE credit_accounts c SET balance = balance - a.amount FROM asked a
    WHERE c.user_id = a.user_id AND balance >= a.amount
      AND NOT EXISTS (SELECT FROM credit_entries WHERE operation = 'hold:' || a.key)
    RETURNING a.*
), entries AS (
    INSERT INTO credit_entries (operation, account, amount, kind, reason)
    SELECT 'hold:' || t.key, e.account, e.amount, 'hold', t.action
    FROM taken t, LATERAL (VALUES ('user:' || t.user_id, -t.amount), ('held:'
        || t.key, t.amount)) AS e(account, amount)
)
SELECT key FROM taken"""

# What one user gets back from several holds is one sum: a row is updated once by a statement.
_RESOLVE = """
WITH held AS MATERIALIZED (
    SELECT a.key, a.kind, h.amount, u.account,
           (SELECT d.kind FROM credit_entries d WHERE d.operation = 'resolve:' || a.key
               LIMIT 1) AS done
    FROM unnest($1::text[], $2::text[]) AS a(key, kind)
    JOIN credit_entries h ON h.operation = 'hold:' || a.key AND h.account = 'held:' || a.key
    LEFT JOIN credit_entries u ON u.operation = h.operation AND u.account LIKE 'user:%'
), entries AS (
    INSERT INTO credit_entries (operation, account, amount, kind)
    SELECT 'resolve:' || h.key, e.account, e.amount, h.kind FROM held h,
    LATERAL (VALUES ('held:' || h.key, -h.amount),
                    (CASE h.kind WHEN 'capture' THEN 'revenue'
                        ELSE h.account END, h.amount)) AS e(account, amount)
    WHERE h.done IS NULL
    RETURNING account, amount
), returned AS (
    UPDATE credit_accounts c SET balance = balance + e.amount FROM (
        SELECT substr(account, 6) AS user_id, sum(amount)::bigint AS amount FROM entries
        WHERE account LIKE 'user:%' GROUP BY account ORDER BY account COLLATE "C") e
    WHERE c.user_id = e.user_id
)
SELECT key, COALESCE(done, kind) AS resolved FROM held"""

# What follows is for the statements that write requests: credits kept here move with what they pay
# for, together or not at all.

TAKING = """
taking AS MATERIALIZED (
    SELECT c.id, c.user_id, c.take_key AS key, c.take_amount AS amount FROM {rows} c
    WHERE c.take_key IS NOT NULL AND NOT c.key_used
), paying AS (
    UPDATE credit_accounts a SET balance = balance - t.amount FROM (
        SELECT user_id, sum(amount)::bigint AS amount FROM taking GROUP BY user_id
            ORDER BY user_id COLLATE "C") t
    WHERE a.user_id = t.user_id AND balance >= t.amount
    RETURNING a.user_id
), taken AS MATERIALIZED (SELECT id FROM taking JOIN paying USING (user_id))"""
"""Takes the requested amounts; of several for one account all or none. The writer of `written`
lets only `taken` through.

A key that was used before violates the key of the entries, here and below: the statement writes
nothing.
"""

SET_ASIDE = """
set_aside AS (
    INSERT INTO credit_entries (operation, account, amount, kind, reason)
    SELECT 'hold:' || c.take_key, e.account, e.amount, 'hold', c.take_action
    FROM written c, LATERAL (VALUES ('user:' || c.user_id, -c.take_amount), ('held:'
        || c.take_key, c.take_amount))
        AS e(account, amount)
    WHERE c.take_key IS NOT NULL
)"""

SETTLING = """
settling AS MATERIALIZED (
    SELECT c.id, c.at, h.amount, d->'body'->>'key' AS key
    FROM written c, jsonb_array_elements(c.messages) d
    JOIN credit_entries h ON h.operation = 'hold:' || (d->'body'->>'key')
        AND h.account = 'held:' || (d->'body'->>'key')
    WHERE d->>'topic' = 'credits.capture'
), revenue AS (
    INSERT INTO credit_entries (operation, account, amount, kind)
    SELECT 'resolve:' || s.key, e.account, e.amount, 'capture'
    FROM settling s, LATERAL (VALUES ('held:' || s.key, -s.amount), ('revenue',
        s.amount)) AS e(account, amount)
)"""
"""Captures what was held in the ledger; anything else stays a message, and the relay finds the
cause.
"""

# A hold of nothing that is released already: the entry's key is the hold's own, so only one of the
# two can be there.
_CLOSE = """
INSERT INTO credit_entries (operation, account, amount, kind)
SELECT o.operation, 'held:' || $1, 0, 'release' FROM (VALUES ('hold:' || $1), ('resolve:'
    || $1)) AS o(operation)
WHERE NOT EXISTS (SELECT FROM credit_entries WHERE operation = 'hold:' || $1)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerAccount:
    """An account; users without one are on the Free plan with a balance of 0."""

    plan: str = FREE.name
    balance: int = 0
    status: str = SubscriptionStatus.ACTIVE.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """The state of a hold in the ledger; `resolved` is `capture`, `release` or None."""

    user_id: str
    amount: int
    resolved: str | None


class OperationReusedError(Exception):
    """The operation's id was used for another user, amount, plan or reason; nothing was written."""


class Ledger:
    """The accounts and entries; every operation is idempotent on its key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._accounts = GroupCommit(self._load_accounts, key=lambda user_id: user_id)
        self._holds = GroupCommit(self._write_holds, key=lambda hold: hold[1])
        self._resolutions = GroupCommit(
            self._write_resolutions, key=lambda resolution: resolution[0]
        )

    async def account(self, user_id: str) -> LedgerAccount:
        """Return the account of a user, loaded in a batch with others that wait at the same
        moment.
        """
        return await self._accounts.submit(user_id)

    async def _load_accounts(self, user_ids: Sequence[str]) -> list[LedgerAccount]:
        found = await self._database.fetch(
            "SELECT user_id, plan, balance, status FROM credit_accounts WHERE user_id ="
            " ANY($1::text[])",
            list(user_ids),
        )
        known = {
            row["user_id"]: LedgerAccount(
                plan=row["plan"], balance=row["balance"], status=row["status"]
            )
            for row in found
        }
        return [known.get(user_id, LedgerAccount()) for user_id in user_ids]

    async def hold(self, key: str, *, user_id: str, amount: int, action: str) -> bool:
        """Move the amount to `held:<key>`; return False if the balance is too low or the key
        exists already.
        """
        with suppress(
            asyncpg.UniqueViolationError
        ):  # the same hold came twice at once, and the other was first
            return await self._holds.submit((key, user_id, amount, action))
        return False

    async def _write_holds(self, holds: Sequence[tuple[str, str, int, str]]) -> list[bool]:
        columns = zip(*sorted(holds, key=itemgetter(1)), strict=True)
        taken = {row["key"] for row in await self._database.fetch(_HOLD, *map(list, columns))}
        return [key in taken for key, *_ in holds]

    async def resolve(self, key: str, kind: str) -> str | None:
        """Move what is held to `revenue` (capture) or back (release), unless that was done
        before.

        Returns how the key is resolved now; None if the key is unknown.
        """
        try:
            return await self._resolutions.submit((key, kind))
        except asyncpg.UniqueViolationError:  # two resolved it at once, and the other was first
            movement = await self.find(key)
            return movement.resolved if movement else None

    async def _write_resolutions(self, resolutions: Sequence[tuple[str, str]]) -> list[str | None]:
        keys, kinds = zip(*resolutions, strict=True)
        found = await self._database.fetch(_RESOLVE, list(keys), list(kinds))
        resolved = {row["key"]: row["resolved"] for row in found}
        return [resolved.get(key) for key in keys]

    async def close(self, key: str) -> None:
        """Close a key that never held anything, so that it never will."""
        with suppress(
            asyncpg.UniqueViolationError
        ):  # the hold came at the same moment, and was first
            await self._database.execute(_CLOSE, key)

    async def outstanding(self, before: datetime, most: int) -> list[dict[str, Any]]:
        """Return the holds of `held:` accounts since before that moment, oldest first."""
        found = await self._database.fetch(
            """SELECT substr(h.account, 6) AS key, substr(u.account, 6) AS user_id, h.amount,
                h.reason AS action
               FROM credit_entries h JOIN credit_entries u ON u.operation = h.operation
                   AND u.account LIKE 'user:%'
               WHERE h.kind = 'hold' AND h.account LIKE 'held:%' AND h.at < $1
                 AND NOT EXISTS (SELECT FROM credit_entries r
                                 WHERE r.operation = 'resolve:' || substr(h.account, 6)
                                     AND r.account = h.account)
               ORDER BY h.id LIMIT $2""",
            before,
            most,
        )
        return [dict(row) for row in found]

    async def find(self, key: str) -> Movement | None:
        """Return the state of a key; a key that was closed unused has no account and amount 0."""
        row = await self._database.fetchrow(
            """SELECT COALESCE(substr(u.account, 6), '') AS user_id, h.amount,
                      (SELECT kind FROM credit_entries r WHERE r.operation = 'resolve:' || $1
                          LIMIT 1) AS resolved
               FROM credit_entries h
               LEFT JOIN credit_entries u ON u.operation = h.operation AND u.account LIKE 'user:%'
               WHERE h.operation = 'hold:' || $1 AND h.account = 'held:' || $1""",
            key,
        )
        return Movement(**row) if row else None

    async def grant(
        self,
        user_id: str,
        amount: int,
        *,
        operation: str,
        reason: str,
        plan: str | None = None,
        status: SubscriptionStatus | None = None,
    ) -> bool:
        """Grant credits and set plan and status; idempotent on `operation`. Returns False if it
        was done before.

        Raises:
            ValueError: the plan is unknown, or the amount would take the balance below zero.
            OperationReusedError: the operation stands for another grant.
        """
        if plan is not None and plan not in PLANS:
            raise ValueError(f"unknown plan; use one of {', '.join(PLANS)}")
        told = " ".join(
            [
                reason,
                *(
                    f"({word} {value})"
                    for word, value in (("plan", plan), ("status", status))
                    if value
                ),
            ]
        )
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('grant:' || $1, 0))", operation
            )
            before = await connection.fetchrow(
                """SELECT account, amount, reason FROM credit_entries
                   WHERE operation = 'grant:' || $1 AND account LIKE 'user:%'""",
                operation,
            )
            if before is not None:
                if tuple(before) != (f"user:{user_id}", amount, told):
                    raise OperationReusedError
                return False
            await connection.execute(
                """INSERT INTO credit_entries (operation, account, amount, kind, reason) VALUES
                   ('grant:' || $1, 'user:' || $2, $3, 'grant', $4), ('grant:'
                       || $1, 'issued', -$3, 'grant', $4)""",
                operation,
                user_id,
                amount,
                told,
            )
            await connection.execute(
                """INSERT INTO credit_accounts (user_id, plan, status)
                   VALUES ($1, COALESCE($2, 'free'), COALESCE($3, 'active'))
                   ON CONFLICT (user_id) DO UPDATE SET
                       plan = COALESCE($2, credit_accounts.plan), status = COALESCE($3,
                           credit_accounts.status)""",
                user_id,
                plan,
                status,
            )
            balance = await connection.fetchval(
                """UPDATE credit_accounts SET balance = balance + $2 WHERE user_id = $1 AND balance
                    + $2 >= 0
                   RETURNING balance""",
                user_id,
                amount,
            )
            if balance is None:
                raise ValueError("the balance cannot fall below zero")
            return True
