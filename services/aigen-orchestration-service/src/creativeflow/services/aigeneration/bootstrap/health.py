"""Readiness checks and gauges: the state of the database, brokers, workers and background tasks."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Broker
from creativeflow.services.aigeneration.application import metrics
from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.kit.supervision import TaskStatus
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.invariants import Invariants
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.storage.queries import Queries
from creativeflow.services.aigeneration.workers.watchdog import Watchdog

DATABASE_SECONDS = 3.0
"""Time limit of the database check."""


class Health:
    """Checks every dependency of one process; `brokers` by the name of their check."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        invariants: Invariants,
        watchdog: Watchdog | None,
        *,
        brokers: Mapping[str, Broker],
        background_tasks: Callable[[], list[TaskStatus]],
        open_streams: Callable[[], int],
    ) -> None:
        self._database = database
        self._queries = queries
        self._invariants = invariants
        self._watchdog = watchdog
        self._brokers = brokers
        self._background_tasks = background_tasks
        self._open_streams = open_streams

    async def checks(self) -> dict[str, dict[str, Any]]:
        """Return the state of each dependency."""
        found = {"database": await self._check_database()}
        found |= {name: _check_broker(broker) for name, broker in self._brokers.items()}
        found["background"] = _check_background(self._background_tasks())
        if self._watchdog is not None and found["database"]["ok"]:
            found["workers"] = await _check_workers(self._watchdog)
        return found

    async def refresh_gauges(self) -> None:
        """Update the gauges; without the database they keep their values."""
        metrics.STREAMS.set(self._open_streams())
        with suppress(ServiceUnavailableError):
            for lane in await self._queries.lanes():
                metrics.QUEUED.labels(lane["lane"]).set(lane["waiting"])
                metrics.IN_FLIGHT.labels(lane["lane"]).set(lane["in_flight"])
            for kind, count in (await self._queries.messages()).items():
                metrics.OUTBOX_MESSAGES.labels(kind).set(count)
            for name, count in (await self._invariants.last()).items():
                metrics.INVARIANTS.labels(name).set(count)

    async def _check_database(self) -> dict[str, Any]:
        """Read the schema revision, and reconnect if the server has become read-only."""
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                revision = await self._queries.revision()
                version = await self._queries.server_version()
                writes = await self._queries.takes_writes()
        except (ServiceUnavailableError, TimeoutError):
            return _database(ok=False, detail="does not answer")
        if not writes:
            await self._database.reconnect()
            return _database(ok=False, detail="takes no writes: a standby, or set to read-only")
        if revision != head():
            detail = f"schema is at {revision or 'nothing'}: run aigen migrate"
            return _database(ok=False, detail=detail)
        return _database(ok=True, detail=f"PostgreSQL {version}, schema {revision}")


def _database(*, ok: bool, detail: str) -> dict[str, Any]:
    return {"ok": ok, "required": True, "detail": detail}


def _check_broker(broker: Broker) -> dict[str, Any]:
    return {
        "ok": broker.connected,
        "required": False,
        "detail": broker.server_version if broker.connected else broker.last_error,
        "mismatches": list(broker.mismatches),
    }


def _check_background(tasks: list[TaskStatus]) -> dict[str, Any]:
    detail = "; ".join(
        f"{task.name}: {task.detail or 'not running'}" for task in tasks if not task.ok
    )
    return {
        "ok": not detail,
        "required": False,
        "detail": detail or f"{len(tasks)} tasks run",
        "restarts": {task.name: task.restarts for task in tasks if task.restarts},
    }


async def _check_workers(watchdog: Watchdog) -> dict[str, Any]:
    stalled = await watchdog.look()
    detail = ", ".join(f"{stall.lane}: {stall.kind} ({stall.jobs} jobs)" for stall in stalled)
    return {"ok": not stalled, "required": False, "detail": detail or "no stalled jobs"}
