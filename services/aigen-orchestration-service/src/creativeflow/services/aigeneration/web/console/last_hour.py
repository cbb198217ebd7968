"""The last hour, minute by minute: what is finished is remembered, so that only the newest minutes
are asked for.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from creativeflow.services.aigeneration.storage.statistics import MinuteCounts

MINUTES = 60
LATELY = 5
"""The rate of now is the mean of so many whole minutes."""
_MINUTE = timedelta(minutes=1)
_SETTLED_AFTER = timedelta(minutes=2)
"""What happened in a minute is in the timeline by then, however long its write took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long deliveries took, in seconds; None where nothing was delivered."""

    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastHour:
    """Sixty minutes, the oldest first; the last one has only begun."""

    minutes: Sequence[MinuteCounts]

    def total(self, name: str) -> int:
        """How often something happened."""
        return sum(getattr(minute, name) for minute in self.minutes)

    def rate(self, name: str) -> float:
        """How often it happens in a minute, by the last whole ones."""
        lately = self.minutes[-1 - LATELY : -1]
        return float(sum(getattr(minute, name) for minute in lately)) / LATELY

    def waits(self, name: str) -> Waits:
        """How long it took, over the hour."""
        return waits([seconds for minute in self.minutes for seconds in getattr(minute, name)])

    @property
    def success(self) -> float | None:
        """Which part of the requests that ended by themselves ended well; None where none ended."""
        ended = self.total("completed") + self.total("failed")
        return self.total("completed") / ended if ended else None


class Hour:
    """Asks for minutes, and remembers those that will not change any more."""

    def __init__(
        self,
        ask: Callable[[datetime, datetime], Awaitable[Sequence[MinuteCounts]]],
        now: Callable[[], datetime],
    ) -> None:
        self._ask = ask
        self._now = now
        self._known: dict[datetime, MinuteCounts] = {}
        self._settled_until: datetime | None = None

    async def __call__(self) -> LastHour:
        """The last sixty minutes."""
        now = self._now()
        this_minute = now.replace(second=0, microsecond=0)
        first = this_minute - (MINUTES - 1) * _MINUTE
        settled = self._settled_until
        since = settled if settled is not None and first <= settled <= this_minute else first
        fresh = {minute.at: minute for minute in await self._ask(since, now + _MINUTE)}
        kept = {at: minute for at, minute in self._known.items() if first <= at < since}
        self._known = kept | fresh
        self._settled_until = (now - _SETTLED_AFTER).replace(second=0, microsecond=0)
        every = (first + number * _MINUTE for number in range(MINUTES))
        return LastHour(minutes=[self._known.get(at, MinuteCounts(at=at)) for at in every])


def waits(seconds: Sequence[float]) -> Waits:
    """Median and 95th percentile by nearest rank."""
    ordered = sorted(seconds)
    if not ordered:
        return Waits(count=0, p50=None, p95=None)
    return Waits(count=len(ordered), p50=_rank(ordered, 0.5), p95=_rank(ordered, 0.95))


def _rank(ordered: Sequence[float], part: float) -> float:
    return ordered[math.ceil(part * len(ordered)) - 1]
