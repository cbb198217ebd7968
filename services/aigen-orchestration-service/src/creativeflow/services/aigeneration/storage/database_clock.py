"""The clock that all processes of a deployment share: that of the database server."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.storage.database import Database

log = structlog.get_logger(__name__)

SYNC_SECONDS = 30.0
"""Interval at which a process compares its clock with the server's."""
_SLOW_SECONDS = 1.0
"""An answer that took longer says too little about the time."""
_WARN_SECONDS = 2.0


class DatabaseClock:
    """Returns the database server's time, between two comparisons by the monotonic clock.

    So a machine whose clock is wrong, or is set while the service runs, neither takes over leases
    of other processes nor lets deadlines pass early. Before the first comparison it returns the
    local time.
    """

    def __init__(
        self,
        database: Database,
        *,
        local: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._local = local
        self._monotonic = monotonic
        self._synced: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """Return the current time in UTC."""
        if self._synced is None:
            return self._local()
        at, when = self._synced
        return at + timedelta(seconds=self._monotonic() - when)

    def new_id(self) -> UUID:
        """Return a new id of version 7 with this clock's time."""
        return clock.uuid7(self())

    async def sync(self) -> int:
        """Compare with the server's clock; returns 0, as a step without further work.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        began = self._monotonic()
        at: datetime = await self._database.fetchval("SELECT clock_timestamp()")
        ended = self._monotonic()
        if self._synced is not None and ended - began > _SLOW_SECONDS:
            return 0
        self._synced = at + timedelta(seconds=(ended - began) / 2), ended
        ahead = (self._local() - self()).total_seconds()
        if abs(ahead) > _WARN_SECONDS:
            log.warning(
                "clock_differs",
                ahead_seconds=round(ahead, 1),
                hint="the database's time is used; synchronise the clock of this machine",
            )
        return 0
