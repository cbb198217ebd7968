"""Statements that write some of the same requests lock them in one order: none ever waits for another in a circle."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
import pytest

from creativeflow.services.aigeneration.domain.change import Change
from creativeflow.services.aigeneration.domain.lifecycle import Event
from creativeflow.services.aigeneration.domain.request import Request
from world import World

TOGETHER = 9
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def deadlocks(world: World) -> int:
    """How many circles the server has broken so far; each session tells with a second's delay."""
    await asyncio.sleep(1.2)
    for _ in range(12):
        await asyncio.gather(*(world.service.database.fetchval("SELECT pg_sleep(0.02)") for _ in range(6)))
    return int(await world.database.fetchval(_DEADLOCKS))


async def both_held_up(
    world: World, url: str, middle: Request, first: Coroutine[Any, Any, Any], second: Coroutine[Any, Any, Any]
) -> Any:
    """Let two statements run, one after the other, until a lock on one request in the middle of both stops them, and
    then go on: the first one has the request first.
    """
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM generation_requests WHERE id = $1 FOR UPDATE", middle.id)
            tasks = []
            for one in (first, second):
                tasks.append(asyncio.create_task(one))
                while await world.database.fetchval(_WAITING) < len(tasks):
                    await asyncio.sleep(0.01)
    finally:
        await other.close()
    return await asyncio.gather(*tasks)


@pytest.mark.parametrize("kind", [Event.CANCEL_REQUESTED, Event.PROGRESS_REPORTED])
async def test_two_moves_of_the_same_requests_whatever_order_they_come_in(
    world: World, database_url: str, kind: Event
) -> None:
    mover = world.orchestrator._mover  # noqa: SLF001 - the changes of two processes at one moment
    for number in range(TOGETHER):  # the users' order is not the requests'
        await world.submit(f"user-{TOGETHER - number}")
    await world.dispatch()
    requests = [await world.look(world.engine.jobs.popleft()) for _ in range(TOGETHER)]

    def progress(request: Request) -> Change:
        return mover.happen(request, Event.PROGRESS_REPORTED, progress={"percent": 50}, data={"percent": 50})

    def other(request: Request) -> Change:
        if kind is Event.PROGRESS_REPORTED:
            return progress(request)
        return mover.happen(request, kind, data={"by": "test"}, pending_action=None)

    first, second = await both_held_up(
        world, database_url, requests[TOGETHER // 2],
        mover.store.write_moves([progress(request) for request in requests]),
        mover.store.write_moves([other(request) for request in reversed(requests)]),
    )  # fmt: skip
    assert [one != two for one, two in zip(first, reversed(second), strict=True)] == [True] * TOGETHER
    assert await deadlocks(world) == 0
