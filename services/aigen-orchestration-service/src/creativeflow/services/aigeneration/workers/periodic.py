"""Periodic tasks, each run once per interval by one of all processes."""

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
        self, tasks: Sequence[PeriodicTask], *, take_turn: TakeTurn, now: Callable[[], datetime]
    ) -> None:
        self._tasks = tasks
        self._take_turn = take_turn
        self._now = now

    async def step(self) -> int:
        """Run every task whose turn is free."""
        for task in self._tasks:
            if not await self._take_turn(
                task.name, every_seconds=task.every.total_seconds(), now=self._now()
            ):
                continue
            try:
                await task.do()
            except Exception:
                log.exception("periodic_task_failed", task=task.name)
        return 0
