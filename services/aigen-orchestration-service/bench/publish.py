"""The dispatcher's publishing against raw pika: pipelined confirms to the same quorum queue."""

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from bench.parts import RABBITMQ, database
from creativeflow.services.aigeneration.adapters.engine.rabbitmq import RabbitMQEngine
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Binding,
    Broker,
    Exchange,
    Queue,
    Topology,
)
from creativeflow.services.aigeneration.application.generations import Submission
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.clock import now, uuid7
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from creativeflow.services.aigeneration.settings import Settings

IN_FLIGHT = 500


async def measure(*, rounds: int, jobs: int) -> dict[str, object]:
    """Interleaved: raw pika; the engine's publish; the whole dispatcher with its database work."""
    name = f"bench.{uuid4().hex[:8]}"
    topology = Topology(
        exchanges=(Exchange(name, "direct"),),
        queues=(Queue(name, {"x-queue-type": "quorum"}),),
        bindings=(Binding(name, name, Stage.SAMPLES.value),),
    )
    broker = Broker(RABBITMQ, topology=topology, max_unconfirmed=IN_FLIGHT)
    await broker.start()
    await broker.wait_connected(10)
    engine = RabbitMQEngine(
        broker,
        exchange=name,
        routing_keys={stage: stage.value for stage in Stage},
        secrets=CallbackSecrets(["bench"]),
        public_url="http://127.0.0.1:1",
        policy=Policy(),
        now=now,
    )
    try:
        async with database() as url:
            settings = Settings(_env_file=None, lane_window=100_000, callback_secret="bench" * 8)  # type: ignore[call-arg]
            service = Container(settings, database_url=url, engine=engine)
            await service.store.prepare_months(now())
            request = await _a_job(service)
            body = len(engine.encode(request))
            figures: dict[str, list[float]] = {"raw": [], "engine": [], "dispatcher": []}
            for _ in range(rounds):
                figures["raw"].append(await _raw(name, jobs, body))
                figures["engine"].append(await _rate(jobs, lambda: _engine(engine, request, jobs)))
                await _fill(service, jobs)
                figures["dispatcher"].append(await _rate(jobs, lambda: _dispatch(service, jobs)))
                await _forget(service)
            await service.stop()
    finally:
        await _delete(name)
        await broker.close()
    return {
        "body_bytes": body,
        **{
            f"{part}_per_second": round(statistics.median(found)) for part, found in figures.items()
        },
        "engine_ratio": _ratio(figures["engine"], figures["raw"]),
        "ratio": _ratio(figures["dispatcher"], figures["raw"]),
    }


def _ratio(ours: list[float], raw: list[float]) -> float:
    return round(
        statistics.median(mine / theirs for mine, theirs in zip(ours, raw, strict=True)), 3
    )


async def _rate(jobs: int, work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    began = time.perf_counter()
    await work()
    return jobs / (time.perf_counter() - began)


async def _engine(engine: RabbitMQEngine, request: GenerationRequest, jobs: int) -> None:
    for _ in range(jobs // IN_FLIGHT):
        await engine.publish([request] * IN_FLIGHT)


async def _dispatch(service: Container, jobs: int) -> None:
    done = 0
    while done < jobs:
        done += await service.dispatcher.step()


async def _forget(service: Container) -> None:
    """No job of this round is with a worker in the next one: a window of thousands is no part of
    what is measured.
    """
    await service.database.execute(
        "UPDATE generation_requests SET state = 'CANCELLED', deadline_at = NULL, lease_until = NULL"
        " WHERE deadline_at IS NOT NULL"
    )


async def _fill(service: Container, jobs: int) -> None:
    for start in range(0, jobs, 500):
        await asyncio.gather(*(_submit(service, number) for number in range(start, start + 500)))


async def _a_job(service: Container) -> GenerationRequest:
    await _submit(service, 0)
    return (await service.jobs.lease(Stage.SAMPLES, window=1, most=1)).jobs[0]


async def _submit(service: Container, number: int) -> None:
    await service.generations.submit(submission(f"{uuid7()}-{number}"))


def submission(user_id: str) -> Submission:
    """A small order."""
    return Submission(
        user_id=user_id,
        project_id=None,
        metadata={},
        created_by="bench",
        correlation_id="bench",
        brief={
            "input_prompt": "A lighthouse at dawn, calm sea",
            "output_format": "InstagramPost_1x1",
        },
    )


async def _raw(queue: str, count: int, size: int) -> float:
    """As fast as pika goes on this loop with so many unconfirmed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Any] = loop.create_future()
    finished: asyncio.Future[None] = loop.create_future()
    state = {"sent": 0, "confirmed": 0}
    body = b"x" * size
    properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")

    def on_channel(channel: Any) -> None:
        channel.confirm_delivery(on_confirm, callback=lambda _: ready.set_result(channel))

    def on_confirm(frame: Any) -> None:
        tag = frame.method.delivery_tag
        state["confirmed"] = tag if frame.method.multiple else state["confirmed"] + 1
        push()
        if state["confirmed"] >= count and not finished.done():
            finished.set_result(None)

    def push() -> None:
        while state["sent"] < count and state["sent"] - state["confirmed"] < IN_FLIGHT:
            channel.basic_publish("", queue, body, properties, mandatory=True)
            state["sent"] += 1

    connection = AsyncioConnection(
        pika.URLParameters(RABBITMQ),
        on_open_callback=lambda opened: opened.channel(on_open_callback=on_channel),
        custom_ioloop=loop,
    )
    channel = await ready
    began = time.perf_counter()
    push()
    await finished
    rate = count / (time.perf_counter() - began)
    connection.close()
    return rate


async def _delete(name: str) -> None:
    def delete() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
        channel = connection.channel()
        channel.queue_delete(name)
        channel.exchange_delete(name)
        connection.close()

    await asyncio.to_thread(delete)
