"""Answers that are kept for a moment, so that many viewers cost one question."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TimedCache(Generic[Value]):
    """Asks at most once in so many seconds, and once at a time; whoever comes meanwhile gets the
    same answer.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Value]],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._monotonic = monotonic
        self._known: tuple[float, Value] | None = None
        self._asking: asyncio.Task[Value] | None = None

    async def __call__(self) -> Value:
        """The answer, fresh or kept; an error is never kept."""
        if self._known is not None and self._monotonic() - self._known[0] < self._seconds:
            return self._known[1]
        return await asyncio.shield(self._begin())

    async def soon(self, patience_seconds: float) -> Value | None:
        """The answer if it is there within the patience, else the last one there was, else None.

        The question goes on being asked, so that a later look finds its answer.
        """
        try:
            async with asyncio.timeout(patience_seconds):
                return await self()
        except TimeoutError:
            return self._known[1] if self._known else None

    def forget(self) -> None:
        """Ask anew next time, because something has just been done."""
        self._known = None

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _begin(self) -> asyncio.Task[Value]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer())
            self._asking.add_done_callback(_look_at_the_error)
        return self._asking

    async def _answer(self) -> Value:
        began = self._monotonic()
        value = await self._ask()
        self._known = (began, value)
        return value


def _look_at_the_error(task: "asyncio.Task[Value]") -> None:
    """Whoever waited has been told; where nobody waited any more, nobody needs to be."""
    if not task.cancelled():
        task.exception()
