"""While a real broker is short of memory, publishers wait and results still arrive."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Broker,
    Delivery,
    Message,
    PublishOutcome,
    Queue,
    Topology,
)
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.settings import Settings
from tests.support.servers import RabbitMQServer, rabbitmq_node

QUEUE = "alarm.results"
TOPOLOGY = Topology((), (Queue(QUEUE, {}),), ())


@pytest.fixture
async def node() -> AsyncIterator[RabbitMQServer]:
    """A node whose alarms disturb nobody else."""
    async with rabbitmq_node() as started:
        yield started


def result(number: int) -> Message:
    return Message(exchange="", routing_key=QUEUE, body=b"{}", message_id=str(number), type="test")


async def test_results_arrive_while_an_alarm_blocks_publishers(node: RabbitMQServer) -> None:
    publisher = Broker(node.url, topology=TOPOLOGY, name="publisher")
    await publisher.start()
    await publisher.wait_connected(10)
    sent = await publisher.publish([result(number) for number in range(40)])
    assert {publication.outcome for publication in sent} == {PublishOutcome.CONFIRMED}
    await node.control("set_vm_memory_high_watermark", "absolute", "1000000")
    blocked = asyncio.create_task(publisher.publish([result(99)]))
    async with asyncio.timeout(20):
        while not publisher.blocked_reason:
            await asyncio.sleep(0.05)
    taken: list[str] = []

    async def take(delivery: Delivery) -> AckDecision:
        taken.append(delivery.message_id)
        return AckDecision.ACK

    consumer = Broker(node.url, topology=TOPOLOGY, name="consumer")
    consumer.consume(QUEUE, take, prefetch=2)
    await consumer.start()
    async with asyncio.timeout(20):
        while len(taken) < 40:
            await asyncio.sleep(0.05)
    await node.control("set_vm_memory_high_watermark", "0.6")
    async with asyncio.timeout(20):
        while publisher.blocked_reason:
            await asyncio.sleep(0.05)
    await blocked
    again = await publisher.publish([result(100)])
    assert again[0].outcome is PublishOutcome.CONFIRMED
    for broker in (consumer, publisher):
        await broker.close()


def test_service_consumes_results_on_a_connection_that_publishes_nothing(
    settings: Settings,
) -> None:
    update = {"engine_url": "amqp://guest:guest@127.0.0.1:1/%2F"}
    asked = Settings.model_validate(settings.model_dump() | update)
    service = Container(asked, database_url="postgresql://127.0.0.1:1/none")
    assert service.results_broker is not None
    assert service.results_broker is not service.broker
