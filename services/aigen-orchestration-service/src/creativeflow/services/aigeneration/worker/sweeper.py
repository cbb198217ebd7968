"""What time does: deadlines, expired leases, reminders, holds nobody waits for, and the monthly housekeeping."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.jobs import Jobs
from creativeflow.services.aigeneration.storage.store import Store

log = structlog.get_logger(__name__)

_BATCH = 200
_HOUSEKEEPING = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done once in a while by one process of all."""

    name: str
    every: timedelta
    do: Callable[[], Awaitable[None]]


class TakeTurn(Protocol):
    """Whether this process does a chore now."""

    async def __call__(self, name: str, *, every_seconds: float, now: datetime) -> bool:
        """Ask, and take the turn if it is free."""
        ...


class Sweeper:
    """Any number may run: whatever is overdue happens once, because every move is guarded."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        *,
        now: Callable[[], datetime],
        settle_hold: Callable[[UUID], Awaitable[None]],
        hold_grace: timedelta,
        keep_keys: timedelta,
        chores: Sequence[Chore],
        take_turn: TakeTurn,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._settle_hold = settle_hold
        self._now = now
        self._hold_grace = hold_grace
        self._keep_keys = keep_keys
        self._chores = chores
        self._take_turn = take_turn
        self._tidied_at: datetime | None = None
        self._asked: dict[str, datetime] = {}

    async def step(self) -> int:
        """Let everything overdue happen; how many requests were looked at while more may be waiting."""
        overdue = await self._store.due(self._now(), _BATCH)
        for request in overdue:
            await self._jobs.time_passed(request)
        for request_id in await self._store.unsettled_holds(self._now() - self._hold_grace, _BATCH):
            await self._settle_hold(request_id)
        await self._tidy()
        for chore in self._chores:
            await self._do(chore)
        return len(overdue) if len(overdue) == _BATCH else 0

    async def _do(self, chore: Chore) -> None:
        """The turn is asked for no more often than it can be had."""
        now = self._now()
        asked = self._asked.get(chore.name)
        if asked is not None and now - asked < chore.every / 4:
            return
        self._asked[chore.name] = now
        if await self._take_turn(chore.name, every_seconds=chore.every.total_seconds(), now=now):
            await chore.do()

    async def _tidy(self) -> None:
        now = self._now()
        if self._tidied_at and now - self._tidied_at < _HOUSEKEEPING:
            return
        await self._store.prepare_months(now)
        forgotten = await self._store.forget_old_keys(now - self._keep_keys)
        self._tidied_at = now
        if forgotten:
            log.info("idempotency_keys_forgotten", count=forgotten)
