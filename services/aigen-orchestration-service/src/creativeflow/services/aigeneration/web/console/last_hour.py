"""The last hour by minute; settled minutes are cached, so only the newest are queried."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from creativeflow.services.aigeneration.storage.statistics import MinuteCounts

MINUTES = 60
RATE_MINUTES = 5
"""Rates are the mean of this many complete minutes."""
_MINUTE = timedelta(minutes=1)
_SETTLED_AFTER = timedelta(minutes=2)
"""The events of a minute are all in the timeline by then, however long their commit took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of delivery latencies in seconds; None without deliveries."""

    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastHour:
    """Sixty minutes, oldest first; the last one is incomplete."""

    minutes: Sequence[MinuteCounts]

    def total(self, name: str) -> int:
        """Sum a counter over the hour."""
        return sum(getattr(minute, name) for minute in self.minutes)

    def rate(self, name: str) -> float:
        """Return a counter's rate per minute, the mean of the last `RATE_MINUTES`."""
        complete = self.minutes[-1 - RATE_MINUTES : -1]
        return float(sum(getattr(minute, name) for minute in complete)) / RATE_MINUTES

    def latency(self, name: str) -> Latency:
        """Compute the latency percentiles of the hour."""
        return compute_latency(
            [seconds for minute in self.minutes for seconds in getattr(minute, name)]
        )

    @property
    def success_rate(self) -> float | None:
        """Completed requests of completed and failed ones; None if there are none."""
        ended = self.total("completed") + self.total("failed")
        return self.total("completed") / ended if ended else None


class LastHourCache:
    """Loads the last hour and caches its settled minutes, which no longer change."""

    def __init__(
        self,
        load: Callable[[datetime, datetime], Awaitable[Sequence[MinuteCounts]]],
        now: Callable[[], datetime],
    ) -> None:
        self._load = load
        self._now = now
        self._known: dict[datetime, MinuteCounts] = {}
        self._settled_until: datetime | None = None

    async def __call__(self) -> LastHour:
        """Return the last sixty minutes."""
        now = self._now()
        this_minute = now.replace(second=0, microsecond=0)
        first = this_minute - (MINUTES - 1) * _MINUTE
        settled = self._settled_until
        since = settled if settled is not None and first <= settled <= this_minute else first
        fresh = {minute.at: minute for minute in await self._load(since, now + _MINUTE)}
        cached = {at: minute for at, minute in self._known.items() if first <= at < since}
        self._known = cached | fresh
        self._settled_until = (now - _SETTLED_AFTER).replace(second=0, microsecond=0)
        moments = (first + number * _MINUTE for number in range(MINUTES))
        return LastHour(minutes=[self._known.get(at, MinuteCounts(at=at)) for at in moments])


def compute_latency(seconds: Sequence[float]) -> Latency:
    """Compute p50 and p95 by nearest rank."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency(count=0, p50=None, p95=None)
    return Latency(
        count=len(ordered), p50=_percentile(ordered, 0.5), p95=_percentile(ordered, 0.95)
    )


def _percentile(ordered: Sequence[float], fraction: float) -> float:
    return ordered[math.ceil(fraction * len(ordered)) - 1]
