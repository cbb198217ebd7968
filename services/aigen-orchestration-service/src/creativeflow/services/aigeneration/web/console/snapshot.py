"""Cached snapshots of the service's state, loaded once for all viewers of this process."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from creativeflow.services.aigeneration.api.dependencies import queues_now
from creativeflow.services.aigeneration.api.services import Services
from creativeflow.services.aigeneration.web.console.cached import TimedCache
from creativeflow.services.aigeneration.web.console.change_feed import ChangeFeed
from creativeflow.services.aigeneration.web.console.last_hour import LastHour, LastHourCache

SNAPSHOT_SECONDS = 1.5
INVARIANT_SECONDS = 60.0
"""Lifetime of the cached invariants: checking them reads a month of requests."""
INVARIANT_DAYS = 31
_INVARIANT_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantCounts:
    """The invariants as counted at one moment, over requests that ended within `days`."""

    counts: Mapping[str, int]
    at: datetime
    days: int

    @property
    def all_zero(self) -> bool:
        """Whether all invariants hold."""
        return not any(self.counts.values())

    @property
    def violated(self) -> dict[str, int]:
        """The counts that are not 0."""
        return {name: count for name, count in self.counts.items() if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The content of the overview page except for the invariants."""

    at: datetime
    hour: LastHour
    queues: Mapping[str, Any]
    checks: Mapping[str, Mapping[str, Any]]
    open_holds: Mapping[str, int]
    attention: Mapping[str, int]


class SnapshotCache:
    """Loads snapshots and caches them briefly; one per application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        statistics = services.statistics
        self.hour = LastHourCache(statistics.minutes, services.now)
        self.change_feed = ChangeFeed(statistics.mark)
        self.snapshot = TimedCache(self._load_snapshot, seconds=SNAPSHOT_SECONDS)
        self.attention = TimedCache(self._count_attention, seconds=SNAPSHOT_SECONDS)
        self._invariants = TimedCache(
            lambda: self.check_invariants(INVARIANT_DAYS), seconds=INVARIANT_SECONDS
        )

    async def get_invariants(self) -> InvariantCounts | None:
        """Return the cached invariants; None while they are being counted for the first time."""
        return await self._invariants.get_within(_INVARIANT_TIMEOUT_SECONDS)

    async def check_invariants(self, days: int) -> InvariantCounts:
        """Count the invariants now."""
        now = self._services.now()
        counts = await self._services.invariants.count(now, now - timedelta(days=days))
        return InvariantCounts(counts=counts, at=now, days=days)

    def invalidate(self) -> None:
        """Discard all cached values, after an action that changes them."""
        for cache in (self.snapshot, self.attention, self._invariants):
            cache.invalidate()

    async def close(self) -> None:
        """Cancel all loading."""
        await self.change_feed.close()
        for cache in (self.snapshot, self.attention, self._invariants):
            await cache.close()

    async def _count_attention(self) -> dict[str, int]:
        statistics = self._services.statistics
        return await statistics.needs(self._services.now())

    async def _load_snapshot(self) -> Snapshot:
        statistics = self._services.statistics
        hour, queues, checks, open_holds, attention = await asyncio.gather(
            self.hour(),
            queues_now(self._services),
            self._services.checks(),
            statistics.set_aside(),
            self.attention(),
        )
        return Snapshot(
            at=self._services.now(),
            hour=hour,
            queues=queues,
            checks=checks,
            open_holds=open_holds,
            attention=attention,
        )
