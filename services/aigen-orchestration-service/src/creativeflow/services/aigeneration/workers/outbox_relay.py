"""Pays what is owed: notifications, lifecycle events, captures and releases, each at least once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsUndecidableError,
    CreditsUnknownError,
    NotifierRefusedError,
    NotifierUnavailableError,
)
from creativeflow.services.aigeneration.storage.outbox import Later, LeasedDebt, Outbox, Outcome, Parked, Sent

log = structlog.get_logger(__name__)

Handler = Callable[[dict[str, Any]], Awaitable[None]]
"""Pays one debt, or raises one of the errors of the port it speaks to."""

PATIENCE = timedelta(days=3)
"""How long a debt is tried before a person must look."""


class Relay:
    """Any number may run: a debt is leased to one, and only the lease's token may write what came of it."""

    def __init__(
        self,
        outbox: Outbox,
        handlers: Mapping[str, Handler],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        batch: int = 100,
        lease_seconds: float = 60.0,
        debt_seconds: float = 30.0,
    ) -> None:
        self._outbox = outbox
        self._handlers = handlers
        self._now = now
        self._new_id = new_id
        self._batch = batch
        self._lease = timedelta(seconds=lease_seconds)
        self._debt_seconds = debt_seconds

    async def step(self) -> int:
        """Pay one batch; how many debts were tried."""
        debts = await self._outbox.lease(
            self._new_id(), most=self._batch, now=self._now(), lease_for=self._lease, topics=list(self._handlers)
        )
        if debts:
            outcomes = await asyncio.gather(*(self._pay(debt) for debt in debts))
            await self._outbox.settle(list(zip(debts, outcomes, strict=True)), now=self._now())
        return len(debts)

    async def _pay(self, debt: LeasedDebt) -> Outcome:
        try:
            async with asyncio.timeout(self._debt_seconds):
                await self._handlers[debt.topic](debt.body)
        except (NotifierRefusedError, CreditsConflictError, CreditsUndecidableError) as error:
            log.error("debt_parked", topic=debt.topic, debt=debt.id, reason=str(error))  # noqa: TRY400 - no fault of ours
            return Parked(str(error) or type(error).__name__)
        except NotifierUnavailableError as error:
            return self._later(debt, str(error), error.retry_after)
        except (CreditsUnknownError, TimeoutError) as error:
            return self._later(debt, str(error) or "no answer in time")
        except Exception as error:
            log.exception("debt_failed", topic=debt.topic, debt=debt.id)
            return self._later(debt, type(error).__name__)
        return Sent()

    def _later(self, debt: LeasedDebt, reason: str, delay: timedelta | None = None) -> Outcome:
        if self._now() - debt.created_at > PATIENCE:
            log.error("debt_parked", topic=debt.topic, debt=debt.id, reason=reason)
            return Parked(f"given up after {debt.attempts} tries: {reason}")
        return Later(reason, delay)
