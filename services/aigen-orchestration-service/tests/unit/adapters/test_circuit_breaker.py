"""The circuit breaker counts calls without a usable answer, however they end."""

import asyncio

import pytest

from creativeflow.services.aigeneration.adapters.http.retries import (
    CircuitBreaker,
    CircuitOpenError,
)


class _AwayError(Exception):
    """The other service is away."""


class _Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def _answer() -> None:
    """Answer at once."""


async def _cut(breaker: CircuitBreaker, time: _Time, after_seconds: float) -> None:
    """Call something that hangs, and cut the call as an outer timeout does."""

    async def hang() -> None:
        await asyncio.Event().wait()

    call = asyncio.create_task(breaker.call(hang, failure=_AwayError))
    await asyncio.sleep(0)
    time.seconds += after_seconds
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_call_cut_by_an_outer_timeout_counts_as_a_failure() -> None:
    time = _Time()
    breaker = CircuitBreaker(monotonic=time)
    for _ in range(5):
        await _cut(breaker, time, after_seconds=5.0)
    assert breaker.open
    with pytest.raises(CircuitOpenError):
        await breaker.call(_answer, failure=_AwayError)


async def test_call_whose_caller_leaves_at_once_does_not_count() -> None:
    time = _Time()
    breaker = CircuitBreaker(monotonic=time)
    for _ in range(20):
        await _cut(breaker, time, after_seconds=0.1)
    assert not breaker.open


async def test_probe_cut_by_an_outer_timeout_opens_again() -> None:
    time = _Time()
    breaker = CircuitBreaker(monotonic=time)
    for _ in range(5):
        await _cut(breaker, time, after_seconds=5.0)
    time.seconds += 61
    await _cut(breaker, time, after_seconds=5.0)
    with pytest.raises(CircuitOpenError):
        await breaker.call(_answer, failure=_AwayError)
