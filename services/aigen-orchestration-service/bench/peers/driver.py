"""The users: so many at once, each creates, waits until told of samples, selects, and waits until
told of the final.

Everybody is told in one way: a persistent lifecycle event on a topic exchange of RabbitMQ,
published with the broker's confirm by the contestant's own durable step and consumed here. Polling
would cost a slow contestant more requests per lifecycle than a fast one; an event costs everybody
the same two messages.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from bench.load import read_json
from bench.parts import RABBITMQ
from bench.peers import order
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Binding,
    Broker,
    Delivery,
    Exchange,
    Queue,
    Topology,
)

_CONNECT_SECONDS = 10
_SETTLED_POLL_SECONDS = 0.01


@dataclass(slots=True)
class Lives:
    """What a run came to; times in seconds."""

    count: int
    seconds: float = 0.0
    """Until the last user was told and nothing was owed any more."""
    told_seconds: float = 0.0
    """Until the last user was told."""
    accepts: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)


def percentile(times: list[float], part: float) -> float:
    """The time below which this part lies, in milliseconds."""
    return round(1000 * sorted(times)[min(len(times) - 1, int(part * len(times)))], 1)


class Driver:
    """Users of one contestant: of its port and its topic exchange."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._told: dict[tuple[str, str], asyncio.Future[list[dict[str, Any]]]] = {}
        self._numbers = iter(range(10**9))

    async def on_event(self, delivery: Delivery) -> AckDecision:
        """Wake the user who waits for this event; told twice is told once."""
        event = orjson.loads(delivery.body)
        future = self._wait(event["data"]["generation_request_id"], event["eventType"])
        if not future.done():
            future.set_result(event["data"].get("samples", []))
        return AckDecision.ACK

    async def lead(
        self, count: int, concurrent: int, *, seconds: float, settled: Callable[[], Awaitable[bool]]
    ) -> Lives:
        """So many lives, so many at once, and then until nothing is owed.

        Raises:
            TimeoutError: it took longer than `seconds`.
        """
        lives = Lives(count)
        left = iter(range(count))
        began = time.perf_counter()
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as users:
            for _ in range(concurrent):
                users.create_task(self._be_a_user(left, lives))
        lives.told_seconds = time.perf_counter() - began
        async with asyncio.timeout(seconds):
            while not await settled():
                await asyncio.sleep(_SETTLED_POLL_SECONDS)
        lives.seconds = time.perf_counter() - began
        return lives

    async def _be_a_user(self, left: Any, lives: Lives) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for _ in left:
                began = time.perf_counter()
                writer.write(order.create(next(self._numbers) * 7))
                request_id = (await read_json(reader))["id"]
                lives.accepts.append(time.perf_counter() - began)
                samples = await self._wait(request_id, order.SAMPLES_READY)
                writer.write(order.select(request_id, samples[0]["asset_id"]))
                await read_json(reader)
                await self._wait(request_id, order.COMPLETED)
                lives.lives.append(time.perf_counter() - began)
        finally:
            writer.close()

    def _wait(self, request_id: str, kind: str) -> asyncio.Future[list[dict[str, Any]]]:
        return self._told.setdefault((request_id, kind), asyncio.get_running_loop().create_future())


@asynccontextmanager
async def users(port: int, topic: str) -> AsyncIterator[Driver]:
    """A driver that is told of this exchange's events."""
    driver = Driver(port)
    name = f"bench.events.{uuid4().hex[:8]}"
    topology = Topology(
        exchanges=(Exchange(topic, "topic"),),
        queues=(Queue(name, {"x-expires": 60_000}, durable=True),),
        bindings=(Binding(topic, name, "generation.#"),),
    )
    broker = Broker(RABBITMQ, topology=topology, name="bench-driver")
    broker.consume(name, driver.on_event, prefetch=200)
    await broker.start()
    try:
        await broker.wait_connected(_CONNECT_SECONDS)
        async with asyncio.timeout(_CONNECT_SECONDS):
            while (depth := await broker.queue_depth(name)) is None or depth[1] == 0:
                await asyncio.sleep(0.02)
        yield driver
    finally:
        await broker.close()
