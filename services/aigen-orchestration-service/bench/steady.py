"""A thousand creates a minute by 10,000 known users: how long each waits for its answer (the load
of the SRS).
"""

import asyncio
import time
from uuid import uuid4

import asyncpg

from bench.accept import USERS, order
from bench.lifecycles import ROLES, queues
from bench.load import Load, answer
from bench.parts import RABBITMQ, database, delete_names, process, service_process, unique_names

PER_MINUTE = 1000


async def measure(*, seconds: float) -> dict[str, object]:
    """One create every 60 ms, whether the last is answered or not, while a worker takes the
    jobs.
    """
    names = unique_names(f"bench.{uuid4().hex[:8]}")
    try:
        async with (
            database() as url,
            service_process(url, engine=RABBITMQ, roles=ROLES, **names) as (port, told),
        ):
            await _make_users(url)
            with process(["-m", "bench.stub_worker", str(port), *queues(names)], told):
                await asyncio.sleep(2)
                return await _load(port, seconds)
    finally:
        await asyncio.to_thread(delete_names, names)


async def _load(port: int, seconds: float) -> dict[str, object]:
    load = Load()
    due = time.perf_counter()
    sent: list[asyncio.Task[None]] = []
    for number in range(int(seconds * PER_MINUTE / 60)):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_one(port, number * 7919, load)))
        due += 60 / PER_MINUTE
    await asyncio.gather(*sent)
    return {
        "creates": load.answers,
        "errors": load.wrong,
        "accept_p50_ms": round(load.percentile(0.5), 1),
        "accept_p95_ms": round(load.percentile(0.95), 1),
        "accept_p99_ms": round(load.percentile(0.99), 1),
    }


async def _one(port: int, number: int, load: Load) -> None:
    """On a connection of its own, as many different callers have."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(order(number))
    status = await answer(reader)
    load.latencies.append(time.perf_counter() - began)
    load.answers += 1
    load.wrong += status != 202
    writer.close()


async def _make_users(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "INSERT INTO credit_accounts (user_id) SELECT 'user-' || n FROM generate_series(0, $1 -"
        " 1) n",
        USERS,
    )
    await connection.close()
