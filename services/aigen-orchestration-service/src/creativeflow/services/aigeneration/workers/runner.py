"""Polling loop of the background roles: adaptive interval, wake-ups, error back-off."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.kit.supervision import (
    SupervisedTask,
    TaskStatus,
    is_own_cancellation,
)

log = structlog.get_logger(__name__)

_PAUSE_MAX_SECONDS = 10.0
_DOUBLINGS_MAX = 10
"""The pause stops growing after this many failures; an uncapped exponent overflows a float after
1,024 of them.
"""
_EAGER_SECONDS = 0.01
"""The interval right after a step with work, because more work often follows."""
_DEGRADED_AFTER_SECONDS = 30.0
"""A poller whose steps have failed for this long reports a problem."""


class Poller:
    """Calls `step` in a loop; `step` returns the number of handled items, 0 if none is left.

    After work the interval is short and then doubles up to `interval_seconds`: under load, work of
    other processes is found within milliseconds; when idle, polling costs next to nothing. A failed
    step is logged and retried after a growing pause. The loop is supervised: it is restarted if
    anything but `stop` ends it.
    """

    def __init__(
        self, name: str, step: Callable[[], Awaitable[int]], *, interval_seconds: float
    ) -> None:
        self.name = name
        self._step = step
        self._interval_seconds = interval_seconds
        self._woken = asyncio.Event()
        self._stopping = False
        self._task = SupervisedTask(name, self._run)
        self._failing_since: float | None = None
        self._last_error = ""

    @property
    def status(self) -> TaskStatus | None:
        """The status of the poller, with the reason if its steps keep failing; None while it is
        stopped.
        """
        if not self._task.wanted:
            return None
        status = self._task.status
        if status.running and self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            if seconds >= _DEGRADED_AFTER_SECONDS:
                return replace(status, detail=f"failing for {seconds:.0f} s ({self._last_error})")
        return status

    def wake(self) -> None:
        """Run the next step now."""
        self._woken.set()

    def start(self) -> None:
        """Start polling."""
        self._stopping = False
        self._task.start()

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Stop after the current step; cancel a step that takes longer than the timeout."""
        self._stopping = True
        self._woken.set()
        await self._task.stop(timeout_seconds)

    async def _run(self) -> None:
        failures, quiet = 0, _EAGER_SECONDS
        while not self._stopping:
            self._woken.clear()
            try:
                done = await self._step()
                failures, self._failing_since = 0, None
            except ServiceUnavailableError as error:
                failures = self._failed(failures, error.code)
                log.warning("role_waits", role=self.name, reason=error.code)
                done = 0
            except (Exception, asyncio.CancelledError) as error:
                if is_own_cancellation(error):
                    raise
                failures = self._failed(failures, type(error).__name__)
                log.exception("role_failed", role=self.name)
                done = 0
            if failures:
                await self._rest(min(_PAUSE_MAX_SECONDS, 0.2 * 2 ** min(failures, _DOUBLINGS_MAX)))
            elif done:
                quiet = _EAGER_SECONDS
            else:
                await self._rest(quiet)
                quiet = min(self._interval_seconds, 2 * quiet)

    def _failed(self, failures: int, reason: str) -> int:
        self._last_error = reason
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        return failures + 1

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
