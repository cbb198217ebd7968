"""Whole lifecycles through RabbitMQ with a stub worker, and the idle time from commit to the
broker's confirm.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import orjson

from bench.accept import PATH, order
from bench.load import post, read_json
from bench.parts import (
    RABBITMQ,
    bench_settings,
    database,
    delete_names,
    process,
    service_process,
    unique_names,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Binding,
    Broker,
    Delivery,
    Queue,
    Topology,
)

ROLES = "api,dispatcher,results,relay,sweeper"


async def measure(*, count: int, concurrent: int, idle: int) -> dict[str, object]:
    """`count` lifecycles, so many at once; then `idle` single requests with nothing else going
    on.
    """
    async with serving(1) as (url, ports, topic):
        seconds = await run(ports, topic, count=count, concurrent=concurrent)
        await asyncio.sleep(1)
        await run(ports, topic, count=idle, concurrent=1)
        latencies = await _commit_to_confirm(url, idle)
    return {
        "lifecycles_per_second": round(count / seconds, 1),
        "lifecycles": count,
        "concurrent": concurrent,
        "idle_commit_to_confirm_p50_ms": round(statistics.median(latencies), 1),
        "idle_commit_to_confirm_p99_ms": round(
            sorted(latencies)[int(0.99 * len(latencies)) - 1], 1
        ),
    }


@asynccontextmanager
async def serving(processes: int) -> AsyncIterator[tuple[str, list[int], str]]:
    """So many processes with every role and one stub worker, warmed up; database, ports, and where
    events are told.
    """
    names = unique_names(f"bench.{uuid4().hex[:8]}")
    try:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database())
            ports = []
            for _ in range(processes):
                port, environment = await stack.enter_async_context(
                    service_process(url, engine=RABBITMQ, roles=ROLES, **names)
                )
                ports.append(port)
            told = ",".join(str(port) for port in ports)
            stack.enter_context(
                process(["-m", "bench.stub_worker", told, *queues(names)], environment)
            )
            topic = bench_settings(environment).rabbitmq_topic_exchange
            await run(ports, topic, count=20, concurrent=5)
            yield url, ports, topic
    finally:
        await asyncio.to_thread(delete_names, names)


def queues(names: dict[str, str]) -> list[str]:
    """Where a worker finds its jobs."""
    return [names["AIGEN_RABBITMQ_SAMPLES_QUEUE"], names["AIGEN_RABBITMQ_FINAL_QUEUE"]]


async def run(ports: Sequence[int], topic: str, *, count: int, concurrent: int) -> float:
    """Create, wait for samples, select, wait for the final; told by the lifecycle events as a
    caller would be.

    The callers share themselves out over the ports; the time all of it took, in seconds.
    """
    name = f"bench.events.{time.time_ns()}"
    topology = Topology(
        exchanges=(),
        queues=(Queue(name, {"x-expires": 60_000}, durable=True),),
        bindings=(Binding(topic, name, "generation.#"),),
    )
    waiting: dict[tuple[str, str], asyncio.Event] = {}

    async def on_event(delivery: Delivery) -> AckDecision:
        event: dict[str, Any] = orjson.loads(delivery.body)
        waiting.setdefault(
            (event["data"]["generation_request_id"], event["eventType"]), asyncio.Event()
        ).set()
        shown[event["data"]["generation_request_id"]] = event["data"].get("samples", [])
        return AckDecision.ACK

    shown: dict[str, list[dict[str, Any]]] = {}
    broker = Broker(RABBITMQ, topology=topology)
    broker.consume(name, on_event, prefetch=200)
    await broker.start()
    await broker.wait_connected(10)
    while (depth := await broker.queue_depth(name)) is None or depth[1] == 0:
        await asyncio.sleep(0.02)
    numbers = iter(range(count))

    async def one_after_another(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            writer.write(order(number * 7))
            request = await read_json(reader)
            await waiting.setdefault(
                (request["id"], "generation.samples_ready"), asyncio.Event()
            ).wait()
            chosen = orjson.dumps({"selected_sample_id": shown[request["id"]][0]["asset_id"]})
            writer.write(post(f"{PATH}/{request['id']}/select-sample", chosen))
            await read_json(reader)
            await waiting.setdefault(
                (request["id"], "generation.completed"), asyncio.Event()
            ).wait()
        writer.close()

    began = time.perf_counter()
    await asyncio.wait_for(
        asyncio.gather(*(one_after_another(ports[n % len(ports)]) for n in range(concurrent))), 300
    )
    seconds = time.perf_counter() - began
    await broker.close()
    return seconds


async def _commit_to_confirm(url: str, newest: int) -> list[float]:
    """From the timeline: submitted (before its commit) to confirmed (after the confirm), in
    milliseconds.
    """
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        """SELECT extract(epoch FROM c.at - s.at) * 1000 AS ms FROM generation_events s
           JOIN generation_events c USING (request_id)
           WHERE s.event = 'submitted' AND c.event = 'samples_job_confirmed' ORDER BY s.seq DESC
               LIMIT $1""",
        newest,
    )
    await connection.close()
    return [float(row["ms"]) for row in rows]
