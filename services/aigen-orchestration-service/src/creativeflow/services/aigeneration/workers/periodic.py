"""Periodic tasks, each run once per interval by one of all processes."""

import asyncio
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
    """Runs the tasks that are due, each by itself: a slow one or one that fails blocks no other."""

    def __init__(
        self, tasks: Sequence[PeriodicTask], *, take_turn: TakeTurn, now: Callable[[], datetime]
    ) -> None:
        self._tasks = tasks
        self._take_turn = take_turn
        self._now = now
        self._running: dict[str, asyncio.Task[None]] = {}

    async def step(self) -> int:
        """Begin every task whose turn is free, unless it still runs."""
        for task in self._tasks:
            if task.name not in self._running and await self._take_turn(
                task.name, every_seconds=task.every.total_seconds(), now=self._now()
            ):
                self._running[task.name] = asyncio.create_task(self._run(task))
        return 0

    async def finish(self) -> None:
        """Wait until no task runs."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def stop(self) -> None:
        """Cancel the tasks that run; what they had not done is done at a later turn."""
        for running in self._running.values():
            running.cancel()
        await self.finish()

    async def _run(self, task: PeriodicTask) -> None:
        try:
            await task.do()
        except Exception:
            log.exception("periodic_task_failed", task=task.name)
        finally:
            del self._running[task.name]
