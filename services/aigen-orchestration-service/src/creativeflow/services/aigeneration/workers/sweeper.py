"""Sweeper: expired deadlines and leases, reminders, abandoned holds, monthly partitions."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.application.jobs import JobService
from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.storage.requests import RequestStore

log = structlog.get_logger(__name__)

_BATCH = 200
_PARALLEL = 16
_MONTHS_INTERVAL = timedelta(hours=1)


class Sweeper:
    """Applies what is overdue; any number may run, because every transition is guarded."""

    def __init__(
        self,
        store: RequestStore,
        jobs: JobService,
        *,
        now: Callable[[], datetime],
        settle_hold: Callable[[UUID, str], Awaitable[None]],
        hold_grace: timedelta,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._settle_hold = settle_hold
        self._now = now
        self._hold_grace = hold_grace
        self._months_prepared_at: datetime | None = None

    async def step(self) -> int:
        """Apply everything overdue; return the number of examined requests while more may be
        waiting.
        """
        overdue = await self._store.due(self._now(), _BATCH)
        for request in overdue:
            await self._guarded(self._jobs.time_passed(request), request.id)
        unsettled = await self._store.unsettled_holds(self._now() - self._hold_grace, _BATCH)
        room = asyncio.Semaphore(
            _PARALLEL
        )  # an unresponsive credit service must not delay the deadlines

        async def settle(request_id: UUID, key: str) -> None:
            async with room:
                await self._guarded(self._settle_hold(request_id, key), request_id)

        asked = await asyncio.gather(*(settle(*each) for each in unsettled), return_exceptions=True)
        for error in asked:  # after all of them, so that no two rounds overlap
            if error is not None:
                raise error
        await self._prepare_months()
        return len(overdue) if len(overdue) == _BATCH else 0

    async def _guarded(self, work: Awaitable[None], request_id: UUID) -> None:
        """Isolate failing items from the others; without the database, fail the whole step."""
        try:
            await work
        except ServiceUnavailableError:
            raise
        except Exception:
            log.exception("sweep_failed", generation_request_id=str(request_id))

    async def _prepare_months(self) -> None:
        now = self._now()
        if self._months_prepared_at and now - self._months_prepared_at < _MONTHS_INTERVAL:
            return
        await self._store.prepare_months(now)
        self._months_prepared_at = now
