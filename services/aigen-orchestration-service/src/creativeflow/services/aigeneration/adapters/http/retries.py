"""Retries with back-off, and a circuit breaker, for calls to other services."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

Result = TypeVar("Result")

TRIES = 3


class CircuitOpenError(Exception):
    """Not called, because too many recent calls failed."""


class CircuitBreaker:
    """Opens for a minute after five failures within a minute; then one probe decides.

    Only calls without a usable response are failures; a refusal is a response. A call that was cut
    from outside after `slow_seconds`, such as by the timeout of its caller, is a failure too.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        window_seconds: float = 60.0,
        open_seconds: float = 60.0,
        slow_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._window_seconds = window_seconds
        self._open_seconds = open_seconds
        self._slow_seconds = slow_seconds
        self._monotonic = monotonic
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._open_until: float | None = None
        self._probing = False

    async def call(
        self, ask: Callable[[], Awaitable[Result]], *, failure: type[Exception]
    ) -> Result:
        """Call unless open; exceptions of the type `failure` count as failures.

        Raises:
            CircuitOpenError: it is open, or a probe is running.
        """
        self._enter()
        began = self._monotonic()
        try:
            answer = await ask()
        except failure:
            self._failed()
            raise
        except asyncio.CancelledError:
            if self._monotonic() - began >= self._slow_seconds:
                self._failed()
            self._probing = False
            raise
        except BaseException:
            self._probing = False
            raise
        self._closed()
        return answer

    @property
    def open(self) -> bool:
        """Whether calls are refused now."""
        return self._open_until is not None

    def _enter(self) -> None:
        if self._open_until is None:
            return
        if self._probing or self._monotonic() < self._open_until:
            raise CircuitOpenError
        self._probing = True

    def _failed(self) -> None:
        now = self._monotonic()
        self._failed_at.append(now)
        often = (
            len(self._failed_at) == self._failures
            and now - self._failed_at[0] <= self._window_seconds
        )
        if self._probing or often:
            self._open_until = now + self._open_seconds
        self._probing = False

    def _closed(self) -> None:
        if self._probing or self._open_until is not None:
            self._failed_at.clear()
        self._open_until, self._probing = None, False


async def call_with_retry(
    ask: Callable[[], Awaitable[Result]],
    *,
    again_after: type[Exception] | tuple[type[Exception], ...],
    first_pause_seconds: float = 0.5,
    longest_pause_seconds: float = 5.0,
) -> Result:
    """Call up to three times, with pauses of 0.5 to 5 s and jitter, after one of these exceptions.

    Raises:
        Exception: the last failure.
    """
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(TRIES),
        retry=retry_if_exception_type(again_after),
        reraise=True,
        wait=wait_exponential(multiplier=first_pause_seconds, max=longest_pause_seconds)
        + wait_random(0, first_pause_seconds),
    ):
        with attempt:
            return await ask()
    raise AssertionError("the last attempt either returns or raises")
