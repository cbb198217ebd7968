"""How the rate of whole lifecycles grows with processes on one machine, all roles in each."""

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

from bench.lifecycles import ROLES, queues, run
from bench.parts import RABBITMQ, bench_settings, database, delete_names, own_names, process, service_process


async def measure(*, counts: tuple[int, ...], lifecycles: int, concurrent: int) -> dict[str, object]:
    """For each number of processes its own database, queues and worker."""
    found = {}
    for count in counts:
        rate = await _measure(count, lifecycles, concurrent)
        found[f"lifecycles_per_second_with_{count}"] = round(rate, 1)
    return found


async def _measure(count: int, lifecycles: int, concurrent: int) -> float:
    names = own_names(f"bench.{uuid4().hex[:8]}")
    try:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database())
            ports = []
            for _ in range(count):
                port, environment = await stack.enter_async_context(
                    service_process(url, engine=RABBITMQ, roles=ROLES, **names)
                )
                ports.append(port)
            told = ",".join(str(port) for port in ports)
            stack.enter_context(process(["-m", "bench.stub_worker", told, *queues(names)], environment))
            topic = bench_settings(environment).rabbitmq_topic_exchange
            await run(ports, topic, count=20, concurrent=5)
            return lifecycles / await run(ports, topic, count=lifecycles, concurrent=concurrent)
    finally:
        await asyncio.to_thread(delete_names, names)
