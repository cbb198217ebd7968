"""Periodic tasks: each is run once per interval, by one of all processes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A task with its interval."""

    name: str
    every: timedelta
    do: Callable[[], Awaitable[None]]


class TakeTurn(Protocol):
    """Claims the turn of a task for this process."""

    async def __call__(self, name: str, *, every_seconds: float, now: datetime) -> bool:
        """Claim the turn; return whether it was free."""
        ...


class PeriodicTasks:
    """Runs the tasks that are due; one that fails waits for its next turn and blocks no other."""

    def __init__(
        self, chores: Sequence[PeriodicTask], *, take_turn: TakeTurn, now: Callable[[], datetime]
    ) -> None:
        self._chores = chores
        self._take_turn = take_turn
        self._now = now

    async def step(self) -> int:
        """Run every task whose turn is free."""
        for chore in self._chores:
            if not await self._take_turn(
                chore.name, every_seconds=chore.every.total_seconds(), now=self._now()
            ):
                continue
            try:
                await chore.do()
            except Exception:
                log.exception("chore_failed", chore=chore.name)
        return 0
