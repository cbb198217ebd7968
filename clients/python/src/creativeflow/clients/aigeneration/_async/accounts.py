"""Credits, for operators: grants, statements, flags, holds in doubt, usage, reconciliation."""

import json
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Literal

from creativeflow.clients.aigeneration._async.session import AsyncSession, read_lines
from creativeflow.clients.aigeneration.calls import Call, new_key
from creativeflow.clients.aigeneration.errors import ApiConnectionError
from creativeflow.clients.aigeneration.resources.accounts import (
    AccountFlag,
    FlagsCleared,
    HoldDecided,
    ParkedHold,
    ReconciliationReport,
    Statement,
    UsageRecord,
)

_OPERATIONS = "/api/v1/operations"


class AsyncAccounts:
    """Calls for operators on credits."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def grant_credits(
        self,
        user_id: str,
        amount: Decimal | str,
        *,
        reason: str | None = None,
        plan: str | None = None,
        status: str | None = None,
        idempotency_key: str | None = None,
    ) -> Statement:
        """Add credits to an account of the local ledger; a negative amount takes some back."""
        body = {
            "user_id": user_id,
            "amount": str(amount),
            "reason": reason,
            "plan": plan,
            "status": status,
        }
        key = idempotency_key or new_key()
        path = f"{_OPERATIONS}/credits/grants"
        return Statement.parse(
            await self._session.request(
                Call(method="POST", path=path, body=body, idempotency_key=key)
            )
        )

    async def get_statement(self, user_id: str) -> Statement:
        """Return plan, balance, holds, flags and movements of a user."""
        path = f"{_OPERATIONS}/users/{{user_id}}/statement"
        call = Call(method="GET", path=path, path_parameters={"user_id": user_id})
        return Statement.parse(await self._session.request(call))

    async def list_flagged(self, *, limit: int | None = None) -> tuple[AccountFlag, ...]:
        """Return the open flags of all accounts, oldest first."""
        call = Call(method="GET", path=f"{_OPERATIONS}/flags", query={"limit": limit})
        return AccountFlag.parse_items(await self._session.request(call))

    async def clear_flags(self, user_id: str, note: str) -> FlagsCleared:
        """Clear every open flag of an account, with the reason."""
        call = Call(
            method="POST",
            path=f"{_OPERATIONS}/users/{{user_id}}/clear",
            path_parameters={"user_id": user_id},
            body={"note": note},
        )
        return FlagsCleared.parse(await self._session.request(call))

    async def list_parked_holds(self, *, limit: int | None = None) -> tuple[ParkedHold, ...]:
        """Return holds whose charge the credit service cannot confirm, oldest first."""
        call = Call(method="GET", path=f"{_OPERATIONS}/holds/parked", query={"limit": limit})
        return ParkedHold.parse_items(await self._session.request(call))

    async def decide_hold(self, key: str, *, charged: bool) -> HoldDecided:
        """Record whether the credit service charged a hold, and settle it accordingly."""
        call = Call(
            method="POST",
            path=f"{_OPERATIONS}/holds/{{key}}/decide",
            path_parameters={"key": key},
            body={"charged": charged},
        )
        return HoldDecided.parse(await self._session.request(call))

    async def list_usage(
        self, month: str, *, user_id: str | None = None, project_id: str | None = None
    ) -> AsyncGenerator[UsageRecord, None]:
        """Yield the chargeable actions of a month such as 2026-11 (UTC), oldest first."""
        call = _usage_call(month, "jsonl", user_id, project_id)
        async for line in read_lines(self._session.stream(call)):
            yield _read_usage(line)

    async def export_usage(
        self,
        month: str,
        *,
        format: Literal["csv", "jsonl"] = "csv",  # noqa: A002 - the name of the API
        user_id: str | None = None,
        project_id: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the usage log of a month as CSV or JSON lines, in chunks."""
        async for chunk in self._session.stream(_usage_call(month, format, user_id, project_id)):
            yield chunk

    async def reconcile(
        self, *, hours: int | None = None, apply: bool | None = None
    ) -> ReconciliationReport:
        """Compare with the credit service; `apply` posts decided changes that are missing there."""
        body = {"hours": hours, "apply": apply}
        call = Call(method="POST", path=f"{_OPERATIONS}/reconcile", body=body)
        return ReconciliationReport.parse(await self._session.request(call))


def _usage_call(month: str, as_: str, user_id: str | None, project_id: str | None) -> Call:
    query = {"month": month, "format": as_, "user_id": user_id, "project_id": project_id}
    return Call(method="GET", path=f"{_OPERATIONS}/usage", query=query)


def _read_usage(line: bytes) -> UsageRecord:
    try:
        document = json.loads(line)
    except ValueError:
        raise ApiConnectionError("A line of the usage log is not JSON.") from None
    return UsageRecord.parse(document)
