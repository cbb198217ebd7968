"""A cache of one value, so that many viewers cost one query."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TimedCache(Generic[Value]):
    """Caches a value for some seconds; concurrent callers share one load."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Value]],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._seconds = seconds
        self._monotonic = monotonic
        self._known: tuple[float, Value] | None = None
        self._loading: asyncio.Task[Value] | None = None

    async def __call__(self) -> Value:
        """Return the cached or a freshly loaded value; errors are raised and not cached."""
        if self._known is not None and self._monotonic() - self._known[0] < self._seconds:
            return self._known[1]
        return await asyncio.shield(self._start_loading())

    async def get_within(self, timeout_seconds: float) -> Value | None:
        """Return the value if it loads in time, else the previous one, else None.

        Loading continues after the timeout, so that a later call finds the value.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self()
        except TimeoutError:
            return self._known[1] if self._known else None

    def invalidate(self) -> None:
        """Discard the cached value."""
        self._known = None

    async def close(self) -> None:
        """Cancel a load in progress."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    def _start_loading(self) -> asyncio.Task[Value]:
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._store())
            self._loading.add_done_callback(_retrieve_exception)
        return self._loading

    async def _store(self) -> Value:
        started = self._monotonic()
        value = await self._load()
        self._known = (started, value)
        return value


def _retrieve_exception(task: "asyncio.Task[Value]") -> None:
    """Avoid "exception was never retrieved" if every waiter has timed out."""
    if not task.cancelled():
        task.exception()
