"""Rate limits of state-changing calls, and the time limit for receiving a body."""

import asyncio
import time
from collections import OrderedDict

from fastapi import Request

from creativeflow.services.aigeneration.domain.errors import RateLimitedError

_CALLERS_MAX = 50_000
_WINDOW_SECONDS = 60


class RateLimiter:
    """A fixed window of one minute per caller and process; 0 disables the limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def check(self, request: Request, caller: str) -> None:
        """Count one call.

        Raises:
            RateLimitedError: the limit is exceeded; the error says when the next window begins.
        """
        if not self._per_minute or request.method in {"GET", "HEAD", "OPTIONS"}:
            return
        now = int(time.monotonic())
        window, remaining_seconds = now // _WINDOW_SECONDS, _WINDOW_SECONDS - now % _WINDOW_SECONDS
        known, count = self._counts.pop(caller, (window, 0))
        count = count + 1 if known == window else 1
        self._counts[caller] = (window, count)
        if len(self._counts) > _CALLERS_MAX:
            self._counts.popitem(last=False)
        left = max(0, self._per_minute - count)
        request.scope["aigen.rate_limit"] = (
            f'"default";q={self._per_minute};w={_WINDOW_SECONDS}',
            f'"default";r={left};t={remaining_seconds}',
        )
        if count > self._per_minute:
            raise RateLimitedError(retry_after_seconds=remaining_seconds)


class BodyTimeout:
    """Cancels calls whose body does not arrive in time.

    One timer serves all calls, because one per call would cost each of them. A body may take
    `seconds`, plus one second per `bytes_per_second`: slow connections are allowed, but sending a
    byte now and then does not keep a call open for long.
    """

    ENDED = "the body did not come in time"

    def __init__(self, seconds: float = 30.0, *, bytes_per_second: int = 20_000) -> None:
        self._seconds = seconds
        self._rate = bytes_per_second
        self._ends: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: "asyncio.Task[None]") -> None:
        """Start the time limit of the current task."""
        loop = asyncio.get_running_loop()
        self._ends[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / 4, self._look, loop)

    def came(self, task: "asyncio.Task[None]", size: int) -> None:
        """Record that a part of the body was received."""
        if task in self._ends:
            self._ends[task] += size / self._rate

    def end(self, task: "asyncio.Task[None]") -> None:
        """Stop the time limit: the body is complete, or is no longer read."""
        self._ends.pop(task, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task in [task for task, ends in self._ends.items() if ends <= now]:
            self.end(task)
            task.cancel(self.ENDED)
        self._timer = loop.call_later(self._seconds / 4, self._look, loop) if self._ends else None
