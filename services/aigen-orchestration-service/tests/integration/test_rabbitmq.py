"""The broker adapter on a real RabbitMQ: publish, consume, reconnect and close."""

import asyncio
import datetime as dt
import gc
import ipaddress
import logging
import os
import ssl
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pika
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pika import exceptions as pika_errors
from pika import frame, spec
from structlog.testing import capture_logs

from creativeflow.services.aigeneration.adapters.rabbitmq import broker as broker_module
from creativeflow.services.aigeneration.adapters.rabbitmq import connection as connection_module
from creativeflow.services.aigeneration.adapters.rabbitmq import consumer as consumer_module
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Binding,
    Broker,
    Delivery,
    Exchange,
    Handler,
    Message,
    PublishOutcome,
    PublishResult,
    Queue,
    Topology,
    TryAgainError,
)
from tests.support.tcp_proxy import TcpProxy

URL = os.environ.get("AIGEN_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/")
PARAMETERS = pika.URLParameters(URL)
PASSWORD = "a-pass-word"
QUICK = (0.05, 0.2)
NOT_CONNECTED = PublishResult(PublishOutcome.LOST, "not connected")

Connect = Callable[..., Awaitable[Broker]]


class _Admin:
    """A second, plain connection for set-up and inspection; deletes everything it names at
    the end.
    """

    def __init__(self) -> None:
        parameters = pika.URLParameters(URL)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._exchanges: list[str] = []
        self._queues: list[str] = []

    def name_exchange(self) -> str:
        self._exchanges.append(f"test.x.{uuid.uuid4().hex[:12]}")
        return self._exchanges[-1]

    def name_queue(self) -> str:
        self._queues.append(f"test.q.{uuid.uuid4().hex[:12]}")
        return self._queues[-1]

    def queue(self, **arguments: Any) -> str:
        name = self.name_queue()
        self.declare(name, **arguments)
        return name

    def declare(self, queue: str, **arguments: Any) -> None:
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._channel.queue_declare(queue, durable=True, arguments=named)

    def declare_exchange(self, name: str, kind: str) -> None:
        self._channel.exchange_declare(name, kind, durable=True)

    def delete(self, queue: str) -> None:
        self._channel.queue_delete(queue)

    def put(self, queue: str, *bodies: bytes) -> None:
        for body in bodies:
            properties = pika.BasicProperties(message_id=body.decode())
            self._channel.basic_publish("", queue, body, properties)

    def get(self, queue: str) -> tuple[Any, Any, bytes]:
        method, properties, body = self._channel.basic_get(queue, auto_ack=True)
        assert method is not None, f"{queue} is empty"
        return method, properties, body

    def depth(self, queue: str) -> int:
        return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    def exists(self, *, queue: str = "", exchange: str = "") -> bool:
        channel = self._connection.channel()
        try:
            if queue:
                channel.queue_declare(queue, passive=True)
            else:
                channel.exchange_declare(exchange, passive=True)
        except pika_errors.ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def close(self) -> None:
        for queue in self._queues:
            self._channel.queue_delete(queue)
        for exchange in self._exchanges:
            self._channel.exchange_delete(exchange)
        self._connection.close()


@pytest.fixture
def admin() -> Iterator[_Admin]:
    admin = _Admin()
    yield admin
    admin.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async with TcpProxy(PARAMETERS.host, PARAMETERS.port) as proxy:
        yield proxy


@pytest.fixture
async def connect(admin: _Admin) -> AsyncIterator[Connect]:
    """Return a started broker, connected unless `wait=False`, closed at the end."""
    brokers: list[Broker] = []

    async def connect(
        via: TcpProxy | None = None, *, wait: bool = True, query: str = "", **options: Any
    ) -> Broker:
        options = {"topology": Topology(), "reconnect_seconds": QUICK, **options}
        broker = Broker((through(via) if via else URL) + query, **options)
        brokers.append(broker)
        await broker.start()
        assert not wait or await broker.wait_connected(5), broker.last_error
        return broker

    yield connect
    for broker in brokers:
        await broker.close(2)


@pytest.fixture(autouse=True)
def _no_stray_tasks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    records = [
        record for when in ("setup", "call", "teardown") for record in caplog.get_records(when)
    ]
    strays = [
        record.getMessage()
        for record in records
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not strays


def through(
    proxy: TcpProxy, *, user: str = "", scheme: str = "amqp", host: str = "127.0.0.1"
) -> str:
    credentials = user or f"{PARAMETERS.credentials.username}:{PARAMETERS.credentials.password}"
    vhost = PARAMETERS.virtual_host.replace("/", "%2f")
    return f"{scheme}://{credentials}@{host}:{proxy.port}/{vhost}"


def message(
    routing_key: str, message_id: str = "m", *, exchange: str = "", **options: Any
) -> Message:
    body = options.pop("body", message_id.encode())
    return Message(
        exchange=exchange, routing_key=routing_key, body=body, message_id=message_id, **options
    )


def outcomes(publications: list[PublishResult]) -> list[PublishOutcome]:
    return [publication.outcome for publication in publications]


async def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll every few milliseconds for a condition that no event signals."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def arrived(got: list[Delivery], message_id: str) -> None:
    await eventually(lambda: message_id in {delivery.message_id for delivery in got})


def collector(into: list[Delivery], decision: AckDecision = AckDecision.ACK) -> Handler:
    async def handle(delivery: Delivery) -> AckDecision:
        into.append(delivery)
        return decision

    return handle


# Topology


async def test_topology_missing_is_declared_and_bound(connect: Connect, admin: _Admin) -> None:
    exchange, queue = admin.name_exchange(), admin.name_queue()
    topology = Topology(
        exchanges=(Exchange(exchange, "topic"),),
        queues=(Queue(queue, {"x-queue-type": "quorum"}),),
        bindings=(Binding(exchange, queue, "job.*"),),
    )
    for _ in range(2):  # the second connection finds what the first one declared
        broker = await connect(topology=topology)
        assert broker.mismatches == []
        assert outcomes(await broker.publish([message("job.a", exchange=exchange)])) == [
            PublishOutcome.CONFIRMED
        ]
    assert admin.depth(queue) == 2


async def test_topology_with_other_arguments_is_reported_and_used(
    connect: Connect, admin: _Admin
) -> None:
    exchange, classic, unlimited = admin.name_exchange(), admin.queue(), admin.queue()
    limited = admin.queue(x_max_length=7)
    admin.declare_exchange(exchange, "topic")
    admin.put(classic, b"kept")
    topology = Topology(
        exchanges=(Exchange(exchange, "direct"),),
        queues=(
            Queue(classic, {"x-queue-type": "quorum"}),
            Queue(unlimited, {"x-max-length": 5}),
            Queue(limited),
        ),
        bindings=(Binding(exchange, classic, "k.*"),),
    )
    with capture_logs() as logs:
        broker = await connect(topology=topology)
    assert broker.mismatches == [
        mismatch("Exchange", exchange, "type", "'topic'", "'direct'"),
        mismatch("Queue", classic, "x-queue-type", "not set", "'quorum'"),
        mismatch("Queue", unlimited, "x-max-length", "not set", "'5'"),
        mismatch("Queue", limited, "x-max-length", "'7'", "not set"),
    ]
    assert [
        log["mismatch"] for log in logs if log["event"] == "topology_mismatch"
    ] == broker.mismatches
    assert outcomes(await broker.publish([message("k.1", exchange=exchange)])) == [
        PublishOutcome.CONFIRMED
    ]
    assert admin.depth(classic) == 2


def mismatch(kind: str, name: str, argument: str, theirs: str, ours: str) -> str:
    return (
        f"{kind} {name} exists with other arguments than expected ({argument} is {theirs}, expected"
        f" {ours}); it is used as it is. To get {argument} {ours}, delete it when empty and"
        " restart."
    )


async def test_topology_is_declared_again_on_every_connection(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.name_queue()
    broker = await connect(proxy, topology=Topology(queues=(Queue(queue),)))
    admin.delete(queue)
    proxy.cut()
    await eventually(lambda: not broker.connected)
    assert await broker.wait_connected(5)
    assert admin.exists(queue=queue)


async def test_topology_step_without_answer_ends_in_time(
    connect: Connect, admin: _Admin, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(
        connection_module.Connection, "close", cut_at_once(connection_module.Connection.close)
    )
    stalled = asyncio.Event()
    opened = connection_module.Connection.open_channel

    async def stall_then_open(link: connection_module.Connection) -> connection_module.Channel:
        if not stalled.is_set():
            proxy.stall()
            stalled.set()
        return await opened(link)

    monkeypatch.setattr(connection_module.Connection, "open_channel", stall_then_open)
    broker = await connect(
        proxy, wait=False, topology=Topology(queues=(Queue(admin.name_queue()),))
    )
    await eventually(lambda: broker.last_error)
    assert broker.last_error == "opening a channel took longer than 0.2 s"
    proxy.resume()
    assert await broker.wait_connected(5)


def cut_at_once(
    close: Callable[[connection_module.Connection, float], Awaitable[None]],
) -> Callable[[connection_module.Connection, float], Awaitable[None]]:
    async def close_within(link: connection_module.Connection, timeout_seconds: float) -> None:
        await close(link, min(timeout_seconds, 0.2))

    return close_within


async def test_queue_depth_counts_messages_and_consumers(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue()
    admin.put(queue, b"1", b"2")
    broker = await connect()
    assert await broker.queue_depth(queue) == (2, 0)
    assert await broker.queue_depth(admin.name_queue()) is None
    got: list[Delivery] = []
    broker.consume(queue, collector(got), prefetch=1)
    await eventually(lambda: len(got) == 2)
    assert await broker.queue_depth(queue) == (0, 1)
    await broker.close()
    assert await broker.queue_depth(queue) is None


# Publishing


async def test_publish_message_arrives_unchanged(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue()
    broker = await connect()
    headers = {"attempt": 3, "nested": {"list": ["a", None, True]}}
    sent = message(
        queue,
        "id-1",
        correlation_id="c-1",
        type="job.made",
        headers=headers,
        timestamp=1_700_000_000,
    )
    assert await broker.publish([sent]) == [PublishResult(PublishOutcome.CONFIRMED)]
    _, properties, body = admin.get(queue)
    assert body == b"id-1"
    assert (properties.message_id, properties.correlation_id, properties.type) == (
        "id-1",
        "c-1",
        "job.made",
    )
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert (properties.headers, properties.timestamp) == (headers, 1_700_000_000)


async def test_publish_batch_returns_outcomes_in_order(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue(x_queue_type="quorum")
    broker = await connect(max_unconfirmed=100)
    batch = [message("nowhere." + queue if i % 3 == 0 else queue, f"m{i}") for i in range(600)]
    publications = await broker.publish(batch)
    assert outcomes(publications) == [
        PublishOutcome.CONFIRMED if i % 3 else PublishOutcome.RETURNED for i in range(600)
    ]
    assert publications[0].reason == "312 NO_ROUTE"
    assert admin.depth(queue) == 400


async def test_publish_concurrently_confirms_all(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue()
    broker = await connect(max_unconfirmed=20)
    batches = [[message(queue, f"{b}-{i}") for i in range(50)] for b in range(10)]
    answers = await asyncio.gather(*(broker.publish(batch) for batch in batches))
    assert Counter(outcome for batch in answers for outcome in outcomes(batch)) == {
        PublishOutcome.CONFIRMED: 500
    }
    assert admin.depth(queue) == 500
    assert await broker.publish([]) == []


async def test_publish_repeated_message_ids_are_distinguished(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.queue()
    broker = await connect()
    keys = [queue, "nowhere." + queue, queue, "nowhere." + queue]
    answers = await broker.publish([message(key, "same") for key in keys])
    assert outcomes(answers) == [PublishOutcome.CONFIRMED, PublishOutcome.RETURNED] * 2


async def test_publish_refused_by_the_broker_is_refused(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue(x_max_length=1, x_overflow="reject-publish")
    broker = await connect()
    assert outcomes(await broker.publish([message(queue)])) == [PublishOutcome.CONFIRMED]
    assert await broker.publish([message(queue)]) == [
        PublishResult(PublishOutcome.REFUSED, "refused by the broker")
    ]


async def test_publish_unencodable_message_affects_no_other(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.queue()
    broker = await connect()
    batch = [
        message(queue, "1"),
        message(queue, "2", headers={"price": 0.5}),
        message("k" * 256, "3"),
        message(queue, "4"),
    ]
    answers = await broker.publish(batch)
    assert outcomes(answers) == [
        PublishOutcome.CONFIRMED,
        PublishOutcome.REFUSED,
        PublishOutcome.REFUSED,
        PublishOutcome.CONFIRMED,
    ]
    assert (
        answers[1].reason == "the message cannot be written as AMQP (UnsupportedAMQPFieldException)"
    )
    assert admin.depth(queue) == 2


async def test_publish_without_connection_is_lost_at_once(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = Broker(URL, topology=Topology())
    assert await broker.publish([message(queue)] * 2) == [NOT_CONNECTED] * 2
    broker = await connect(proxy)
    await proxy.refuse()
    proxy.cut()
    await eventually(lambda: not broker.connected)
    assert await broker.publish([message(queue)]) == [NOT_CONNECTED]
    await proxy.accept()
    assert await broker.wait_connected(5)
    assert admin.depth(queue) == 0


async def test_publish_outstanding_on_a_lost_connection_is_lost(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy, max_unconfirmed=30)
    proxy.stall(to_server=False)
    publishing = asyncio.gather(
        *(broker.publish([message(queue, str(i)) for i in range(20)]) for _ in range(3))
    )
    await eventually(lambda: admin.depth(queue) == 30)
    proxy.cut()
    answers = [answer for batch in await publishing for answer in batch]
    assert outcomes(answers) == [PublishOutcome.LOST] * 60
    assert {answer.reason for answer in answers} == {"Transport indicated EOF"}
    proxy.resume()
    assert await broker.wait_connected(5)
    assert outcomes(await broker.publish([message(queue)])) == [PublishOutcome.CONFIRMED]


async def test_publish_late_confirm_is_ignored(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy, confirm_timeout_seconds=0.3)
    proxy.stall(to_server=False)
    late = await broker.publish([message(queue, "1"), message("nowhere." + queue, "2")])
    assert late == [PublishResult(PublishOutcome.LOST, "not confirmed within 0.3 s")] * 2
    again = asyncio.create_task(
        broker.publish([message("nowhere." + queue, "2"), message(queue, "1")])
    )
    await eventually(lambda: admin.depth(queue) == 2)
    proxy.resume()
    assert outcomes(await again) == [PublishOutcome.RETURNED, PublishOutcome.CONFIRMED]


async def test_publish_window_bounds_messages_in_flight(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy, max_unconfirmed=10, confirm_timeout_seconds=0.4)
    proxy.stall(to_server=False)
    first = asyncio.create_task(broker.publish([message(queue, str(i)) for i in range(15)]))
    second = asyncio.create_task(broker.publish([message(queue)]))
    reasons = [answer.reason for answer in await first + await second]
    assert (
        reasons
        == ["not confirmed within 0.4 s"] * 10 + ["still waiting for its turn after 0.4 s"] * 6
    )
    assert admin.depth(queue) == 10
    proxy.resume()
    assert outcomes(await broker.publish([message(queue)] * 30)) == [PublishOutcome.CONFIRMED] * 30


async def test_publish_abandoned_frees_its_room(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy, max_unconfirmed=10)
    proxy.stall(to_server=False)
    publishing = asyncio.create_task(broker.publish([message(queue, str(i)) for i in range(15)]))
    await eventually(lambda: admin.depth(queue) == 10)
    publishing.cancel()
    await asyncio.wait({publishing})
    other = asyncio.create_task(broker.publish([message(queue)] * 5))
    await eventually(lambda: admin.depth(queue) == 15)
    proxy.resume()
    assert outcomes(await other) == [PublishOutcome.CONFIRMED] * 5


async def test_publish_to_a_missing_exchange_loses_only_its_batch(
    connect: Connect, admin: _Admin
) -> None:
    queue, later = admin.queue(), admin.name_queue()
    broker = await connect(topology=Topology(queues=(Queue(later),)))
    admin.delete(later)
    with capture_logs() as logs:
        answers = await broker.publish(
            [message("k", exchange=admin.name_exchange()), message(queue)]
        )
        assert outcomes(answers) == [PublishOutcome.LOST] * 2
        assert answers[0].reason.startswith("404 NOT_FOUND - no exchange")
        assert await broker.wait_connected(5)
    assert (
        outcomes(await broker.publish([message(queue), message(later)]))
        == [PublishOutcome.CONFIRMED] * 2
    )
    assert [log["event"] for log in logs] == ["publisher_channel_lost"]


async def test_publish_while_blocked_writes_nothing(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy, max_unconfirmed=5)
    blocked = PublishResult(PublishOutcome.LOST, "broker is blocking publishers (low on memory)")
    proxy.stall(to_server=False)
    waiting = asyncio.create_task(broker.publish([message(queue, str(i)) for i in range(7)]))
    await eventually(lambda: admin.depth(queue) == 5)
    proxy.inject_to_clients(frame.Method(0, spec.Connection.Blocked("low on memory")).marshal())
    await eventually(lambda: broker.blocked_reason)
    assert await broker.publish([message(queue)] * 2) == [blocked] * 2
    assert await broker.queue_depth(queue) is None
    proxy.resume()
    assert await waiting == [PublishResult(PublishOutcome.CONFIRMED)] * 5 + [blocked] * 2
    assert admin.depth(queue) == 5
    assert broker.connected
    proxy.inject_to_clients(frame.Method(0, spec.Connection.Unblocked()).marshal())
    await eventually(lambda: not broker.blocked_reason)
    assert outcomes(await broker.publish([message(queue)])) == [PublishOutcome.CONFIRMED]


# Connecting


async def test_start_without_broker_connects_later(connect: Connect, proxy: TcpProxy) -> None:
    await proxy.refuse()
    with capture_logs() as logs:
        broker = await connect(proxy, wait=False)
        await eventually(lambda: len(logs) >= 2)
        assert not await broker.wait_connected(0.01)
        assert broker.last_error == "connection refused"
        assert broker.server_version is None
        await proxy.accept()
        assert await broker.wait_connected(5)
    assert {log["event"] for log in logs[:-1]} == {"broker_unreachable"}
    assert logs[-1]["event"] == "broker_connected"
    assert broker.server_version == logs[-1]["server_version"] is not None


async def test_when_connected_is_called_on_every_connection(
    connect: Connect, proxy: TcpProxy
) -> None:
    told: list[bool] = []
    broker = await connect(proxy, wait=False)
    broker.when_connected(lambda: told.append(broker.connected))
    await eventually(lambda: told == [True])
    proxy.cut()
    await eventually(lambda: told == [True] * 2)
    lost = Message(
        exchange=f"no.{uuid.uuid4().hex}", routing_key="x", body=b"", message_id="1"
    )  # closes its channel
    assert [found.outcome for found in await broker.publish([lost])] == [PublishOutcome.LOST]
    await eventually(lambda: told == [True] * 3)


async def test_connection_lost_repeatedly_is_reconnected(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    broker = await connect(proxy)
    got: list[Delivery] = []
    broker.consume(queue, collector(got), prefetch=1)
    with capture_logs() as logs:
        for round_number in range(3):
            proxy.cut()
            await eventually(lambda: not broker.connected)
            assert await broker.wait_connected(5)
            assert outcomes(await broker.publish([message(queue, str(round_number))])) == [
                PublishOutcome.CONFIRMED
            ]
            await arrived(
                got, str(round_number)
            )  # possibly twice, if the connection was cut before its ack
    lost = [log for log in logs if log["event"] == "broker_lost"]
    assert len(lost) == 3
    # An ack in flight when the connection is cut turns its end into a reset.
    assert all("EOF" in log["reason"] or "reset by peer" in log["reason"] for log in lost)
    assert all(QUICK[0] <= log["retry_in_seconds"] <= QUICK[1] for log in lost)
    assert "consumer_lost" not in {log["event"] for log in logs}


def test_backoff_waits_double_at_random() -> None:
    ceilings = []
    for attempt in range(7):
        waits = []
        for _ in range(300):
            backoff = connection_module.Backoff(0.5, 15.0)
            for _ in range(attempt):
                backoff.next()
            waits.append(backoff.next())
        assert min(waits) >= 0.5
        ceilings.append(max(waits))
    assert all(
        0.8 * limit < seen <= limit
        for seen, limit in zip(ceilings, [1, 2, 4, 8, 15, 15, 15], strict=True)
    )
    assert all(backoff.next(lived_seconds=16) <= 1 for _ in range(100))
    assert max(backoff.next(lived_seconds=1) for _ in range(100)) > 10


async def test_connection_to_a_dead_peer_ends_by_heartbeat(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    broker = await connect(proxy, heartbeat_seconds=1)
    broker.consume(admin.queue(), collector([]), prefetch=1)
    proxy.stall()
    await eventually(lambda: broker.last_error, 20)
    assert broker.last_error == "the broker has given no sign of life within the heartbeat"
    proxy.resume()
    assert await broker.wait_connected(5)


@pytest.mark.parametrize("query", ["?stack_timeout=0.3&socket_timeout=0.2"])
async def test_url_query_is_applied(connect: Connect, proxy: TcpProxy, query: str) -> None:
    proxy.stall()
    broker = await connect(proxy, wait=False, query=query)
    await eventually(lambda: broker.last_error, 2)
    assert broker.last_error == "the broker did not finish the handshake in time"
    proxy.resume()
    assert await broker.wait_connected(5)


async def test_credentials_are_never_shown(
    proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = through(proxy, user=f"nobody:{PASSWORD}")
    broker = Broker(url, topology=Topology(), reconnect_seconds=QUICK)
    with capture_logs() as logs:
        await broker.start()
        await eventually(lambda: broker.last_error)
        await broker.close()
    assert broker.last_error.startswith("login refused")
    for told in [broker.last_error, repr(broker), str(logs), caplog.text]:
        assert PASSWORD not in told
    with pytest.raises(ValueError, match="broker URL cannot be read") as failed:
        Broker(f"amqp://nobody:{PASSWORD}@host:port{PASSWORD}/", topology=Topology())
    assert PASSWORD not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


async def test_connection_over_tls_verifies_the_certificate(
    admin: _Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, server_side = certify(tmp_path)
    queue = admin.queue()
    async with TcpProxy(PARAMETERS.host, PARAMETERS.port, tls=server_side) as proxy:
        url = through(proxy, scheme="amqps", host="localhost")
        stranger = Broker(url, topology=Topology(), reconnect_seconds=QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        friend = Broker(url, topology=Topology())
        await stranger.start()
        await friend.start()
        assert await friend.wait_connected(5), friend.last_error
        batch = [message(queue, str(i), body=b"x" * 50_000) for i in range(50)]
        assert outcomes(await friend.publish(batch)) == [PublishOutcome.CONFIRMED] * 50
        got: list[Delivery] = []
        friend.consume(queue, collector(got), prefetch=10)
        await eventually(lambda: len(got) == 50)
        await eventually(lambda: "certificate verify failed" in stranger.last_error.lower())
        await stranger.close()
        await friend.close()


def certify(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Create a self-signed certificate for this machine, and the server's TLS context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(
        now + dt.timedelta(hours=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    plain = serialization.NoEncryption()
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    return certificate, context


async def test_broker_runs_on_uvloop(admin: _Admin) -> None:
    queue = admin.queue()

    async def run() -> tuple[list[PublishOutcome], int]:
        broker = Broker(URL, topology=Topology(queues=(Queue(queue),)))
        await broker.start()
        assert await broker.wait_connected(5)
        answers = await broker.publish([message(queue, str(i)) for i in range(300)])
        got: list[Delivery] = []
        broker.consume(queue, collector(got), prefetch=20)
        await eventually(lambda: len(got) == 300)
        await broker.close()
        return outcomes(answers), len(got)

    assert await asyncio.to_thread(uvloop.run, run()) == ([PublishOutcome.CONFIRMED] * 300, 300)
    assert admin.depth(queue) == 0


# Consuming


async def test_consume_delivery_has_every_property(connect: Connect, admin: _Admin) -> None:
    exchange, queue = admin.name_exchange(), admin.name_queue()
    topology = Topology(
        (Exchange(exchange, "direct"),), (Queue(queue),), (Binding(exchange, queue, "k"),)
    )
    broker = await connect(topology=topology)
    got: list[Delivery] = []
    broker.consume(queue, collector(got), prefetch=1)
    sent = message(
        "k",
        "id",
        exchange=exchange,
        body=b"secret",
        correlation_id="c",
        type="t",
        headers={"h": [1]},
    )
    await broker.publish([sent])
    admin.put(queue, b"bare")
    await eventually(lambda: len(got) == 2)
    assert got[0] == Delivery(
        body=b"secret",
        routing_key="k",
        exchange=exchange,
        redelivered=False,
        message_id="id",
        correlation_id="c",
        type="t",
        headers={"h": [1]},
    )
    assert (got[1].correlation_id, got[1].type, got[1].headers) == (None, None, {})
    assert "secret" not in repr(got[0]) + repr(sent)


async def test_consume_runs_handlers_up_to_the_prefetch(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue()
    admin.put(queue, *(str(i).encode() for i in range(10)))
    gate = asyncio.Semaphore(0)
    running: set[bytes] = set()

    async def handle(delivery: Delivery) -> AckDecision:
        running.add(delivery.body)
        await gate.acquire()
        running.discard(delivery.body)
        return AckDecision.ACK

    broker = await connect()
    broker.consume(queue, handle, prefetch=4)
    await eventually(lambda: len(running) == 4)
    assert await broker.queue_depth(queue) == (6, 1)  # a round trip later there are still four
    assert running == {b"0", b"1", b"2", b"3"}
    for _ in range(2):
        gate.release()
    await eventually(lambda: {b"4", b"5"} < running)
    assert len(running) == 4
    for _ in range(8):
        gate.release()
    await eventually(lambda: not running)
    await broker.close()
    assert admin.depth(queue) == 0


async def test_consume_acknowledges_as_the_handler_decides(connect: Connect, admin: _Admin) -> None:
    dead = admin.queue()
    queue = admin.queue(x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    admin.put(queue, b"ack", b"reject", b"requeue")
    got: list[Delivery] = []

    async def handle(delivery: Delivery) -> AckDecision:
        got.append(delivery)
        if delivery.redelivered:
            return AckDecision.ACK
        return AckDecision(delivery.body.decode())

    broker = await connect()
    broker.consume(queue, handle, prefetch=10)
    await eventually(lambda: len(got) == 4)
    assert [(delivery.body, delivery.redelivered) for delivery in got[2:]] == [
        (b"requeue", False),
        (b"requeue", True),
    ]
    await broker.close()
    assert admin.depth(queue) == 0
    assert admin.get(dead)[2] == b"reject"


async def test_consume_failed_handler_runs_again(
    connect: Connect, admin: _Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_SECONDS", (0.05, 0.1))
    queue = admin.queue()
    admin.put(queue, b"poor", b"good")
    tried: list[tuple[float, bytes, bool]] = []

    async def handle(delivery: Delivery) -> AckDecision:
        tried.append((asyncio.get_running_loop().time(), delivery.body, delivery.redelivered))
        match delivery.body, len([body for _, body, _ in tried if body == b"poor"]):
            case b"poor", 1:
                raise RuntimeError("no luck")
            case b"poor", 2:
                raise asyncio.CancelledError
            case b"poor", 3:
                return None  # type: ignore[return-value]
        return AckDecision.ACK

    broker = await connect()
    with capture_logs() as logs:
        broker.consume(queue, handle, prefetch=2)
        await eventually(lambda: len(tried) == 5)
        await broker.close()
    poor = [(when, again) for when, body, again in tried if body == b"poor"]
    assert [again for _, again in poor] == [False] * 4
    assert all(later - earlier >= 0.05 for (earlier, _), (later, _) in pairwise(poor))
    failures = [log for log in logs if log["event"] == "handler_failed"]
    assert [(log["message_id"], log["attempt"]) for log in failures] == [
        ("poor", 1),
        ("poor", 2),
        ("poor", 3),
    ]
    assert admin.depth(queue) == 0


async def test_consume_waiting_handler_runs_again_without_traceback(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.queue()
    admin.put(queue, b"patient")
    tried: list[bytes] = []

    async def handle(delivery: Delivery) -> AckDecision:
        tried.append(delivery.body)
        if len(tried) == 1:
            raise TryAgainError("storage_unavailable")
        return AckDecision.ACK

    broker = await connect()
    with capture_logs() as logs:
        broker.consume(queue, handle, prefetch=2)
        await eventually(lambda: len(tried) == 2)
        await broker.close()
    (waited,) = [log for log in logs if log["event"] == "handler_waits"]
    assert (waited["log_level"], waited["reason"], "exc_info" in waited) == (
        "warning",
        "storage_unavailable",
        False,
    )
    assert admin.depth(queue) == 0


async def test_consume_on_a_lost_connection_redelivers_the_message(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    admin.put(queue, b"1")
    events: list[str] = []

    async def handle(delivery: Delivery) -> AckDecision:
        events.append(f"began {delivery.redelivered}")
        if not delivery.redelivered:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                events.append("ended")
        return AckDecision.ACK

    broker = await connect(proxy)
    broker.consume(queue, handle, prefetch=1)
    await eventually(lambda: events)
    proxy.cut()
    await eventually(lambda: len(events) == 3)
    assert events == ["began False", "ended", "began True"]
    await broker.close()
    assert admin.depth(queue) == 0


async def test_consume_ack_for_a_dead_channel_is_ignored(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    queue = admin.queue()
    admin.put(queue, b"1")
    got: list[Delivery] = []

    async def handle(delivery: Delivery) -> AckDecision:
        got.append(delivery)
        if not delivery.redelivered:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return AckDecision.ACK

    broker = await connect(proxy)
    broker.consume(queue, handle, prefetch=1)
    await eventually(lambda: got)
    with capture_logs() as logs:
        proxy.cut()
        await eventually(lambda: len(got) == 2)
        await broker.close()
    assert [log["event"] for log in logs] == [
        "broker_lost",
        "broker_connected",
        "consumer_started",
        "broker_closed",
    ]
    assert admin.depth(queue) == 0


async def test_consume_deleted_queue_resumes_and_finishes_handlers(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.queue()
    admin.put(queue, b"1")
    release = asyncio.Event()
    events: list[str] = []

    async def handle(delivery: Delivery) -> AckDecision:
        if delivery.body == b"1":
            await release.wait()
        events.append(delivery.body.decode())
        return AckDecision.ACK

    broker = await connect()
    with capture_logs() as logs:
        broker.consume(queue, handle, prefetch=1)
        await eventually(lambda: any(log["event"] == "consumer_started" for log in logs))
        await eventually(lambda: admin.depth(queue) == 0)
        admin.delete(queue)
        await eventually(lambda: sum(log["event"] == "consumer_lost" for log in logs) >= 2)
        admin.declare(queue)
        admin.put(queue, b"2")
        await eventually(lambda: events == ["2"])
        release.set()
        await eventually(lambda: events == ["2", "1"])
        await broker.close()
    lost = [log for log in logs if log["event"] == "consumer_lost"]
    assert lost[0]["reason"] == "the broker cancelled the consumer; its queue is gone"
    assert lost[1]["reason"].startswith("404 NOT_FOUND")
    assert {log["log_level"] for log in lost} == {"warning"}


async def test_consume_deleted_queue_of_the_topology_is_declared_again(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.name_queue()
    broker = await connect(topology=Topology(queues=(Queue(queue),)))
    got: list[Delivery] = []
    broker.consume(queue, collector(got), prefetch=1)
    await broker.publish([message(queue)])
    await eventually(lambda: len(got) == 1)
    admin.delete(queue)
    await eventually(lambda: admin.exists(queue=queue))
    await broker.publish([message(queue)])
    await eventually(lambda: len(got) == 2)


async def test_consume_missing_queue_affects_no_other_consumer(
    connect: Connect, admin: _Admin
) -> None:
    queue, missing = admin.queue(), admin.name_queue()
    broker = await connect(wait=False)
    found: list[Delivery] = []
    broker.consume(missing, collector(found), prefetch=1)
    got: list[Delivery] = []
    broker.consume(queue, collector(got), prefetch=1)
    with capture_logs() as logs:
        await eventually(lambda: sum(log["event"] == "consumer_lost" for log in logs) >= 3)
        assert outcomes(await broker.publish([message(queue)])) == [PublishOutcome.CONFIRMED]
        await eventually(lambda: got)
        admin.declare(missing)
        admin.put(missing, b"1")
        await eventually(lambda: found)
    assert {log["queue"] for log in logs if log["event"] == "consumer_lost"} == {missing}
    assert broker.last_error == ""


# Closing


async def test_close_drains_everything_without_warnings(
    connect: Connect, admin: _Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    queue, other = admin.queue(), admin.queue()
    admin.put(queue, *(str(i).encode() for i in range(6)))
    release = asyncio.Semaphore(0)
    events: list[str] = []
    broker = await connect()

    async def handle(delivery: Delivery) -> AckDecision:
        events.append("began")
        await release.acquire()
        events.extend(outcomes(await broker.publish([message(other)])))
        return AckDecision.ACK

    broker.consume(queue, handle, prefetch=2)
    await eventually(lambda: len(events) == 2)
    with capture_logs() as logs:
        closing = [asyncio.create_task(broker.close()) for _ in range(2)]
        release.release()
        await eventually(lambda: len(events) == 3)
        for _ in range(5):  # round trips during which another delivery would have arrived
            assert await broker.queue_depth(queue) is not None
        release.release()
        await asyncio.gather(*closing)
        await broker.close()
    assert events == ["began", "began", PublishOutcome.CONFIRMED, PublishOutcome.CONFIRMED]
    assert (admin.depth(queue), admin.depth(other)) == (4, 2)
    assert [log["event"] for log in logs] == ["broker_closed"]
    assert [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ] == []
    assert await broker.publish([message(queue)]) == [NOT_CONNECTED]
    with pytest.raises(RuntimeError):
        await broker.start()


async def test_close_waits_for_outstanding_confirms(
    connect: Connect, admin: _Admin, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "CLOSE_SECONDS", 0.1)
    queue = admin.queue()
    broker = await connect(proxy)
    proxy.stall(to_server=False)
    publishing = asyncio.create_task(broker.publish([message(queue, str(i)) for i in range(20)]))
    await eventually(lambda: admin.depth(queue) == 20)
    closing = asyncio.create_task(broker.close())
    await eventually(lambda: not broker.connected)
    await asyncio.wait({closing, publishing}, timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
    assert not publishing.done()
    proxy.resume()
    await closing
    assert outcomes(await publishing) == [PublishOutcome.CONFIRMED] * 20


async def test_close_does_not_run_failed_handlers_again(connect: Connect, admin: _Admin) -> None:
    queue = admin.queue()
    admin.put(queue, b"1")
    tried = asyncio.Event()

    async def handle(_delivery: Delivery) -> AckDecision:
        tried.set()
        raise RuntimeError("no luck")

    broker = await connect()
    broker.consume(queue, handle, prefetch=1)
    await tried.wait()
    async with asyncio.timeout(1):
        await broker.close()
    assert admin.depth(queue) == 1


async def test_close_with_a_slow_handler_is_bounded_and_keeps_the_message(
    connect: Connect, admin: _Admin
) -> None:
    queue = admin.queue()
    admin.put(queue, b"1")
    running = asyncio.Event()
    cancelled = asyncio.Event()

    async def handle(_delivery: Delivery) -> AckDecision:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return AckDecision.ACK

    broker = await connect()
    broker.consume(queue, handle, prefetch=1)
    await running.wait()
    with capture_logs() as logs:
        async with asyncio.timeout(2):
            await broker.close(0.3)
    assert cancelled.is_set()
    assert [log["event"] for log in logs] == ["broker_close_late"]
    await eventually(lambda: admin.depth(queue) == 1)


async def test_close_with_a_silent_broker_is_bounded(
    connect: Connect, admin: _Admin, proxy: TcpProxy
) -> None:
    broker = await connect(proxy)
    broker.consume(admin.queue(), collector([]), prefetch=1)
    proxy.stall()
    async with asyncio.timeout(6):
        await broker.close(0.2)
    assert not broker.connected
    proxy.resume()
    await eventually(lambda: proxy.open == 0)


@pytest.mark.parametrize("reachable", [True, False])
async def test_close_while_connecting_is_bounded(
    connect: Connect, proxy: TcpProxy, *, reachable: bool
) -> None:
    if reachable:
        proxy.stall()
    else:
        await proxy.refuse()
    broker = await connect(proxy, wait=False, reconnect_seconds=(20, 20))
    await eventually(lambda: proxy.open if reachable else broker.last_error)
    async with asyncio.timeout(1):
        await broker.close()


async def test_close_without_start_does_nothing() -> None:
    broker = Broker(URL, topology=Topology())
    await broker.close()
    assert not await broker.wait_connected(0)
    with pytest.raises(ValueError, match="prefetch"):
        broker.consume("q", collector([]), prefetch=0)
    with pytest.raises(ValueError, match="reconnect_seconds"):
        Broker(URL, topology=Topology(), reconnect_seconds=(0, 1))
