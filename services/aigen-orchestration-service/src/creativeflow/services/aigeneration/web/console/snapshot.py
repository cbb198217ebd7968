"""What the console knows at a glance, asked once for all viewers of this process."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.datastructures import State as AppState

from creativeflow.services.aigeneration.api.dependencies import queues_now
from creativeflow.services.aigeneration.storage.queries import Queries
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.web.console.cached import TimedCache
from creativeflow.services.aigeneration.web.console.change_feed import ChangeFeed
from creativeflow.services.aigeneration.web.console.last_hour import Hour, LastHour

GLANCE_SECONDS = 1.5
COUNT_SECONDS = 60.0
"""The invariants are counted at most so often: that is a look at a month."""
COUNT_DAYS = 31
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The invariants as they were counted, for so many days back."""

    counts: Mapping[str, int]
    at: datetime
    days: int

    @property
    def green(self) -> bool:
        """Whether every count is 0."""
        return not any(self.counts.values())

    @property
    def wrong(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: count for name, count in self.counts.items() if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything on the first page but the invariants."""

    at: datetime
    hour: LastHour
    queues: Mapping[str, Any]
    checks: Mapping[str, Mapping[str, Any]]
    set_aside: Mapping[str, int]
    needs: Mapping[str, int]


class SnapshotCache:
    """Keeps what was asked a moment ago; one for each application."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        figures: Statistics = state.figures
        self.hour = Hour(figures.minutes, state.now)
        self.pulse = ChangeFeed(figures.mark)
        self.glance = TimedCache(self._glance, seconds=GLANCE_SECONDS)
        self.needs = TimedCache(self._needs, seconds=GLANCE_SECONDS)
        self._counts = TimedCache(lambda: self.count(COUNT_DAYS), seconds=COUNT_SECONDS)

    async def counts(self) -> Counts | None:
        """The invariants of a minute ago at most; None while they are being counted for the first
        time.
        """
        return await self._counts.soon(_PATIENCE_SECONDS)

    async def count(self, days: int) -> Counts:
        """Count the invariants now."""
        queries: Queries = self._state.queries
        now: datetime = self._state.now()
        counts = await queries.invariants(now, now - timedelta(days=days))
        return Counts(counts=counts, at=now, days=days)

    def forget(self) -> None:
        """Look anew next time: somebody has just done something."""
        for kept in (self.glance, self.needs, self._counts):
            kept.forget()

    async def close(self) -> None:
        """Stop looking."""
        await self.pulse.close()
        for kept in (self.glance, self.needs, self._counts):
            await kept.close()

    async def _needs(self) -> dict[str, int]:
        figures: Statistics = self._state.figures
        return await figures.needs(self._state.now())

    async def _glance(self) -> Snapshot:
        figures: Statistics = self._state.figures
        hour, queues, checks, set_aside, needs = await asyncio.gather(
            self.hour(),
            queues_now(self._state),
            self._state.checks(),
            figures.set_aside(),
            self.needs(),
        )
        return Snapshot(
            at=self._state.now(),
            hour=hour,
            queues=queues,
            checks=checks,
            set_aside=set_aside,
            needs=needs,
        )
