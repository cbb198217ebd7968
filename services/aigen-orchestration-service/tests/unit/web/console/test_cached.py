"""The cache of one value."""

import asyncio

from creativeflow.services.aigeneration.web.console.cached import TimedCache


async def test_timed_cache_concurrent_callers_share_one_load_and_errors_are_not_cached() -> None:
    time, loads = 0.0, []
    gate = asyncio.Event()

    async def load() -> int:
        loads.append(time)
        await gate.wait()
        if len(loads) == 1:
            raise ValueError
        return len(loads)

    cache = TimedCache(load, seconds=10, monotonic=lambda: time)
    assert await cache.get_within(0) is None
    waiting = [asyncio.ensure_future(cache()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3
    assert await asyncio.gather(*(cache() for _ in range(5))) == [2] * 5
    time = 9.9
    assert await cache() == 2
    time = 10.0
    assert await cache() == 3
    cache.invalidate()
    assert await cache() == 4
    gate.clear()
    time = 30
    assert await cache.get_within(0) == 4
    await cache.close()
