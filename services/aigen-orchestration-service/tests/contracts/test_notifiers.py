"""One suite for every receiver behind the Notifier port, and the meaning of its errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import httpx
import orjson
import pytest

from creativeflow.services.aigeneration.adapters.notifications.http import HttpNotifier
from creativeflow.services.aigeneration.adapters.notifications.log import LogNotifier
from creativeflow.services.aigeneration.adapters.notifications.rabbitmq import RabbitMQNotifier
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Broker,
    Delivery,
    Queue,
    Topology,
)
from creativeflow.services.aigeneration.ports import (
    Notifier,
    NotifierRefusedError,
    NotifierUnavailableError,
)
from tests.support.services import RABBITMQ

NOTIFICATION = {
    "event_id": "0195940d-0000-7000-8000-00000000000b",
    "event_type": "samples_ready",
    "user_id": "user-7",
    "correlation_id": "c-1",
    "locale": "en-US",
    "at": "2026-03-14T09:26:53Z",
    "data": {"generation_request_id": "r-1", "samples": []},
}
EXPECTED = {
    "user_id": "user-7",
    "event_type": "samples_ready",
    "target_channels": ["websocket"],
    "data": {
        "generation_request_id": "r-1",
        "samples": [],
        "event_id": NOTIFICATION["event_id"],
        "at": "2026-03-14T09:26:53Z",
        "locale": "en-US",
    },
}

Received = Callable[[], Awaitable[list[dict[str, object]]]]


@pytest.fixture(params=["log", "http", "rabbitmq"])
async def receiver(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Notifier, Received | None]]:
    """Each notifier with access to what arrived, except for the log."""
    if request.param == "log":
        yield LogNotifier(), None
    elif request.param == "http":
        arrived: list[dict[str, object]] = []

        def take(sent: httpx.Request) -> httpx.Response:
            arrived.append(orjson.loads(sent.content))
            assert sent.headers["Idempotency-Key"] == NOTIFICATION["event_id"]
            assert sent.headers["X-Internal-API-Key"] == "key"
            return httpx.Response(202)

        async def all_posts() -> list[dict[str, object]]:
            return arrived

        async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as client:
            yield (
                HttpNotifier(client, url="https://n/x", api_key="key", channels=["websocket"]),
                all_posts,
            )
    else:
        async with a_queue() as (broker, name, taken):
            yield RabbitMQNotifier(broker, queue=name, channels=["websocket"]), taken


def a_queue() -> "_Queue":
    return _Queue()


class _Queue:
    """A queue on the real broker, with the messages in it."""

    async def __aenter__(self) -> tuple[Broker, str, Received]:
        self.name = f"test.notify.{uuid4().hex[:8]}"
        arrived: asyncio.Queue[dict[str, object]] = asyncio.Queue()

        async def take(delivery: Delivery) -> AckDecision:
            arrived.put_nowait(orjson.loads(delivery.body))
            return AckDecision.ACK

        async def first() -> list[dict[str, object]]:
            return [await asyncio.wait_for(arrived.get(), 10)]

        self.broker = Broker(
            RABBITMQ, topology=Topology((), (Queue(self.name, {"x-expires": 60_000}),), ())
        )
        self.broker.consume(self.name, take, prefetch=5)
        await self.broker.start()
        assert await self.broker.wait_connected(10)
        return self.broker, self.name, first

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()


async def test_notifier_send_delivers_every_field(
    receiver: tuple[Notifier, Received | None],
) -> None:
    notifier, received = receiver
    await notifier.send(NOTIFICATION)
    if received is not None:
        assert await received() == [EXPECTED]


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_notifier_final_status_is_refused(status: int) -> None:
    with pytest.raises(NotifierRefusedError, match=str(status)):
        await post(lambda _: httpx.Response(status))


@pytest.mark.parametrize("status", [301, 408, 425, 429, 500, 502, 503])
async def test_notifier_temporary_status_is_unavailable(status: int) -> None:
    with pytest.raises(NotifierUnavailableError, match=str(status)):
        await post(lambda _: httpx.Response(status))


async def test_notifier_without_answer_is_unavailable() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(NotifierUnavailableError, match="ReadTimeout"):
        await post(fail)


async def post(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        await HttpNotifier(client, url="https://n/x", api_key=None, channels=["websocket"]).send(
            NOTIFICATION
        )


async def test_notifier_missing_queue_is_refused_with_the_remedy() -> None:
    async with a_queue() as (broker, _, _):
        with pytest.raises(NotifierRefusedError, match="declare it, then replay"):
            await RabbitMQNotifier(broker, queue="no.such.queue", channels=["websocket"]).send(
                NOTIFICATION
            )


async def test_notifier_broker_away_is_unavailable_and_retried_soon() -> None:
    broker = Broker("amqp://127.0.0.1:1", topology=Topology((), (), ()))
    with pytest.raises(NotifierUnavailableError) as raised:
        await RabbitMQNotifier(broker, queue="q", channels=["websocket"]).send(NOTIFICATION)
    assert raised.value.retry_after is not None


def test_notifier_without_channels_is_not_allowed() -> None:
    broker = Broker("amqp://127.0.0.1:1", topology=Topology((), (), ()))
    with pytest.raises(ValueError, match="silently dropped"):
        RabbitMQNotifier(broker, queue="q", channels=[])
