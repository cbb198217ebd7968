"""Watches whether workers work: a trigger that has died still says that it is active, and only
silence shows it.

It only tells. The jobs themselves are tried again by their deadline, and money does not move before
that.
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
"""Ready messages and consumers of a queue; None where the broker does not say."""


class Watchdog:
    """Looks at the jobs of each lane and at the lane's queue; any number may look."""

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
        """What is wrong now."""
        found = []
        for work in await self._work():
            depth = await self._depth(self._queues[work.lane])
            seen = QueueSeen(ready=depth[0], consumers=depth[1]) if depth else None
            found += stalls(work, seen, now=self._now(), quiet_for=self._quiet_for)
        return found

    async def step(self) -> int:
        """Look, and tell what has begun and what is over: once each."""
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
