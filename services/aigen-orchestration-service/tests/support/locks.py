"""Lock tests: block two statements on one row, and count deadlocks."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg

from creativeflow.services.aigeneration.domain.request import GenerationRequest
from tests.support.app import ServiceUnderTest

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type ="
    " 'Lock'"
)


async def deadlocks(test_app: ServiceUnderTest) -> int:
    """Return the number of deadlocks so far; sessions report with a second's delay."""
    await asyncio.sleep(1.2)
    for _ in range(12):
        await asyncio.gather(
            *(test_app.service.database.fetchval("SELECT pg_sleep(0.02)") for _ in range(6))
        )
    return int(await test_app.database.fetchval(_DEADLOCKS))


async def both_held_up(
    test_app: ServiceUnderTest,
    url: str,
    middle: GenerationRequest,
    first: Coroutine[Any, Any, Any],
    second: Coroutine[Any, Any, Any],
) -> Any:
    """Start two statements that both wait for a lock on one request, then release it: the first one
    gets the request first.
    """
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute(
                "SELECT FROM generation_requests WHERE id = $1 FOR UPDATE", middle.id
            )
            tasks = []
            for one in (first, second):
                tasks.append(asyncio.create_task(one))
                while await test_app.database.fetchval(_WAITING) < len(tasks):
                    await asyncio.sleep(0.01)
    finally:
        await other.close()
    return await asyncio.gather(*tasks)
