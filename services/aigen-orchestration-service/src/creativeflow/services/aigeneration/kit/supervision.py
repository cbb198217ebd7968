"""Supervised background tasks: one that ends unexpectedly is logged, counted and restarted."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

RESTARTS = Counter(
    "aigen_background_task_restarts_total",
    "Background tasks that ended unexpectedly and were restarted.",
    ("task",),
)
_PAUSE_SECONDS = (0.1, 10.0)
_STABLE_SECONDS = 60.0
"""A task that has run for this long starts again without the pause of earlier failures."""
_DOUBLINGS_MAX = 10


def is_own_cancellation(error: BaseException) -> bool:
    """Return whether `error` cancels the current task, rather than something the task awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The status of one background task; `detail` is its current problem, empty without one."""

    name: str
    running: bool
    restarts: int
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the task runs and reports no problem."""
        return self.running and not self.detail


class SupervisedTask:
    """A coroutine that runs until `stop`; if an exception, a return or a cancellation ends it, it
    is restarted.

    With `may_return` a normal return ends the task until the next `start`. The restart is scheduled
    by the task's done callback and not by a second coroutine, which could itself be cancelled.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], Coroutine[Any, Any, None]],
        *,
        may_return: bool = False,
        pause_seconds: tuple[float, float] = _PAUSE_SECONDS,
    ) -> None:
        self.name = name
        self._run = run
        self._may_return = may_return
        self._pause_seconds = pause_seconds
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wanted = False
        self._restarts = self._failures = 0
        self._began = 0.0
        self._last_error = ""

    @property
    def status(self) -> TaskStatus:
        """Whether the task runs, and if not, why."""
        running = self._task is not None and not self._task.done()
        detail = (
            ""
            if running or not self._wanted
            else f"ended ({self._last_error}); it is being restarted"
        )
        return TaskStatus(self.name, running, self._restarts, detail)

    @property
    def wanted(self) -> bool:
        """Whether the task has been started and not been stopped since."""
        return self._wanted

    def start(self) -> None:
        """Start the task; does nothing while it is started."""
        if not self._wanted:
            self._wanted = True
            self._spawn()

    async def stop(self, timeout_seconds: float = 0.0) -> bool:
        """End the task: wait up to the timeout for it to return, then cancel it. Idempotent.

        Returns False when it had to be cancelled.
        """
        self._wanted = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is None:
            return True
        if timeout_seconds:
            await asyncio.wait({task}, timeout=timeout_seconds)
        returned = task.done()
        task.cancel()
        await asyncio.wait({task})
        return returned

    def _spawn(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._task = loop.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        loop = task.get_loop()
        if not self._wanted or loop.is_closed():
            return
        if self._may_return and not task.cancelled() and error is None:
            self._wanted = False
            return
        stable = loop.time() - self._began > _STABLE_SECONDS
        self._failures = 1 if stable else self._failures + 1
        self._restarts += 1
        self._last_error = (
            "cancelled" if task.cancelled() else type(error).__name__ if error else "returned"
        )
        floor, limit = self._pause_seconds
        pause = min(limit, floor * 2 ** min(self._failures - 1, _DOUBLINGS_MAX))
        RESTARTS.labels(self.name).inc()
        log.error(
            "background_task_ended",
            task=self.name,
            reason=self._last_error,
            restart_in_seconds=pause,
            exc_info=error,
        )
        self._timer = loop.call_later(pause, self._spawn)
