"""The rhythm of every background role: work while there is work, sleep until woken or until it is time to look."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError

log = structlog.get_logger(__name__)

_PAUSE_MAX_SECONDS = 10.0
_EAGER_SECONDS = 0.01
"""How soon to look again after work was found: where there was some, others have often written more."""


class Loop:
    """Calls `step` again and again; `step` returns how much it did, and 0 means that nothing is left to do.

    After work it looks again soon, then ever more seldom, down to once in `interval_seconds`: what other processes
    write is found within milliseconds while there is traffic, and costs next to nothing where there is none.

    A step that fails is logged and tried again after a growing pause: a role never dies of a fault.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[int]], *, interval_seconds: float) -> None:
        self.name = name
        self._step = step
        self._interval_seconds = interval_seconds
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Look for work now: something has just been written."""
        self._woken.set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """End between two steps; a step that takes longer than the timeout is cancelled."""
        if self._task is None:
            return
        task, self._task = self._task, None
        self._stopping = True
        self._woken.set()
        with suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(task, timeout_seconds)

    async def _run(self) -> None:
        self._stopping = False
        failures, quiet = 0, _EAGER_SECONDS
        while not self._stopping:
            self._woken.clear()
            try:
                done = await self._step()
                failures = 0
            except ServiceUnavailableError as error:
                failures += 1
                log.warning("role_waits", role=self.name, reason=error.code)
                done = 0
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise  # we are being stopped; otherwise something that was waited for has been cancelled
                failures += 1
                log.exception("role_failed", role=self.name)
                done = 0
            if failures:
                await self._rest(min(_PAUSE_MAX_SECONDS, 0.2 * 2**failures))
            elif done:
                quiet = _EAGER_SECONDS
            else:
                await self._rest(quiet)
                quiet = min(self._interval_seconds, 2 * quiet)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
