"""Watchdog: detect workers that have stopped without an error.

A trigger that has ended still reports itself as active, so only missing reports show it. The
watchdog only reports: jobs are retried at their deadline, and no credits are settled before that.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from creativeflow.services.aigeneration.application.metrics import STALLED
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.stalled_workers import (
    LaneWork,
    QueueSeen,
    Stall,
    StallKind,
    stalls,
)

log = structlog.get_logger(__name__)

Depth = Callable[[str], Awaitable[tuple[int, int] | None]]
"""Returns ready messages and consumers of a queue; None if the broker does not answer."""


class Watchdog:
    """Compares the jobs of each lane with the queue of the lane; any number may run."""

    def __init__(
        self,
        work: Callable[[], Awaitable[Sequence[LaneWork]]],
        depth: Depth,
        queues: Mapping[Stage, str],
        *,
        now: Callable[[], datetime],
        quiet_for: timedelta,
    ) -> None:
        self._work = work
        self._depth = depth
        self._queues = queues
        self._now = now
        self._quiet_for = quiet_for
        self._known: dict[tuple[Stage, StallKind], Stall] = {}

    async def look(self) -> list[Stall]:
        """Return the lanes that are stalled now."""
        found = []
        for work in await self._work():
            depth = await self._depth(self._queues[work.lane])
            seen = QueueSeen(ready=depth[0], consumers=depth[1]) if depth else None
            found += stalls(work, seen, now=self._now(), quiet_for=self._quiet_for)
        return found

    async def step(self) -> int:
        """Check all lanes; log each stall once when it begins and once when it ends."""
        found = {(stall.lane, stall.kind): stall for stall in await self.look()}
        for key, stall in found.items():
            if key not in self._known:
                log.error(
                    "worker_stalled",
                    lane=stall.lane,
                    kind=stall.kind,
                    jobs=stall.jobs,
                    seconds=round((self._now() - stall.since).total_seconds()),
                )
        for lane, kind in self._known.keys() - found.keys():
            log.info("worker_recovered", lane=lane, kind=kind)
        self._known = found
        for lane in Stage:
            for kind in StallKind:
                waiting = found.get((lane, kind))
                STALLED.labels(lane, kind).set(waiting.jobs if waiting else 0)
        return 0
