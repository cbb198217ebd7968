"""Housekeeping that takes its time: each chore is done now and then by one process of all, and
holds up nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """Something to be done once in a while."""

    name: str
    every: timedelta
    do: Callable[[], Awaitable[None]]


class TakeTurn(Protocol):
    """Whether this process does a chore now."""

    async def __call__(self, name: str, *, every_seconds: float, now: datetime) -> bool:
        """Ask, and take the turn if it is free."""
        ...


class PeriodicTasks:
    """Does what is due; a chore that fails has had its turn, and does not keep the others from
    theirs.
    """

    def __init__(
        self, chores: Sequence[PeriodicTask], *, take_turn: TakeTurn, now: Callable[[], datetime]
    ) -> None:
        self._chores = chores
        self._take_turn = take_turn
        self._now = now

    async def step(self) -> int:
        """Do every chore whose turn is free."""
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
