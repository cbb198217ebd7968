"""The service's one connection to RabbitMQ: keeps it up, declares the topology, publishes and
consumes.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pika
import structlog

from creativeflow.services.aigeneration.adapters.rabbitmq.channels import (
    CANCEL_SECONDS,
    CLOSE_SECONDS,
    NOT_FOUND,
    AckDecision,
    Backoff,
    BrokerCommandError,
    Connection,
    Consumer,
    Delivery,
    Handler,
    Message,
    Publisher,
    PublishOutcome,
    PublishResult,
    Subscription,
    TryAgainError,
    first_of,
)
from creativeflow.services.aigeneration.kit.supervision import (
    SupervisedTask,
    TaskStatus,
    is_own_cancellation,
)

__all__ = [
    "AckDecision",
    "Binding",
    "Broker",
    "Delivery",
    "Exchange",
    "Handler",
    "Message",
    "PublishOutcome",
    "PublishResult",
    "Queue",
    "Topology",
    "TryAgainError",
]

_LOG = structlog.get_logger(__name__)

_MAX_PREFETCH = 65535
_ACCESS_REFUSED = 403
_PRECONDITION_FAILED = 406
_OTHER_ARGUMENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*received (?P<ours>.+) but current is (?P<theirs>.+)"
)
_TYPED_VALUE = re.compile(r"the value ('.*') of type '\w+'")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue that must exist; the arguments are AMQP's (`x-queue-type` and the like)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange that must exist."""

    name: str
    kind: Literal["direct", "topic", "fanout"]
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding that must exist; others are left alone."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All that must exist on the broker before anything is published or consumed."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


async def _declare(link: Connection, topology: Topology) -> list[str]:
    """Creates what is missing, touches nothing that exists, and names in sentences what exists
    otherwise.
    """
    found = []
    for exchange in topology.exchanges:
        expected: dict[str, Any] = {"exchange_type": exchange.kind, "durable": exchange.durable}
        found.append(await _ensure(link, "exchange", exchange.name, expected))
    for queue in topology.queues:
        expected = {"durable": queue.durable, "arguments": dict(queue.arguments)}
        found.append(await _ensure(link, "queue", queue.name, expected))
    async with link.channel() as channel:
        for binding in topology.bindings:
            names = {"exchange": binding.exchange, "queue": binding.queue}
            await channel.call("queue_bind", **names, routing_key=binding.routing_key)
    return [sentence for sentence in found if sentence]


async def _ensure(link: Connection, kind: str, name: str, expected: Mapping[str, Any]) -> str:
    command = f"{kind}_declare"
    exists = True
    try:
        async with link.channel() as channel:
            await channel.call(command, **{kind: name}, passive=True)
    except BrokerCommandError as error:
        if error.code != NOT_FOUND:
            raise
        exists = False
    try:
        async with link.channel() as channel:
            await channel.call(command, **{kind: name}, **expected)
    except BrokerCommandError as error:
        if exists and error.code == _PRECONDITION_FAILED:
            return _mismatch(kind, name, error.reason)
        if not (
            exists and error.code == _ACCESS_REFUSED
        ):  # may use it but not compare it: that is enough
            raise
    return ""


def _mismatch(kind: str, name: str, reason: str) -> str:
    told = _OTHER_ARGUMENT.search(_TYPED_VALUE.sub(r"\1", reason).replace(" none", " not set"))
    detail, wanted = reason, "the expected arguments"
    if told:
        detail = f"{told['name']} is {told['theirs']}, expected {told['ours']}"
        wanted = f"{told['name']} {told['ours']}"
    return (
        f"{kind.capitalize()} {name} exists with other arguments than expected ({detail}); it is"
        f" used as it is. To get {wanted}, delete it when empty and restart."
    )


class Broker:
    """One connection to RabbitMQ that comes back by itself, and what the service does over it.

    All methods belong to the event loop that called start().
    """

    def __init__(
        self,
        url: str,
        *,
        topology: Topology,
        name: str = "aigen",
        max_unconfirmed: int = 500,
        confirm_timeout_seconds: float = 30.0,
        heartbeat_seconds: int = 30,
        reconnect_seconds: tuple[float, float] = (0.5, 15.0),
    ) -> None:
        if max_unconfirmed < 1 or not 0 < reconnect_seconds[0] <= reconnect_seconds[1]:
            raise ValueError(
                "max_unconfirmed must be at least 1 and reconnect_seconds positive and ascending"
            )
        self._parameters = _parameters(url, name, heartbeat_seconds)
        self._topology = topology
        self._max_unconfirmed = max_unconfirmed
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._reconnect_seconds = reconnect_seconds
        self._consumers: list[Consumer] = []
        self._on_connected: list[Callable[[], None]] = []
        self._link: Connection | None = None
        self._publisher: Publisher | None = None
        self._ready = asyncio.Event()
        self._closing: asyncio.Future[None] | None = None
        self._running = SupervisedTask("amqp-broker", self._run, may_return=True)
        self._subscribing: set[asyncio.Task[None]] = set()
        self._last_error = ""
        self._server_version: str | None = None
        self._mismatches: list[str] = []

    @property
    def connected(self) -> bool:
        """Whether a message could be published now: connected, topology declared, channel open."""
        return self._publisher is not None and self._publisher.is_open

    @property
    def last_error(self) -> str:
        """Why the connection last failed or was lost, in words; stays after a reconnect."""
        return self._last_error

    @property
    def blocked_reason(self) -> str:
        """Why the broker takes no messages at present (a resource alarm), else empty."""
        return self._link.blocked_reason if self._link else ""

    @property
    def server_version(self) -> str | None:
        """The broker's version as of the last connection, None before the first."""
        return self._server_version

    @property
    def mismatches(self) -> list[str]:
        """One sentence for each exchange or queue found with other arguments at the last
        connect.
        """
        return list(self._mismatches)

    async def start(self) -> None:
        """Begins to connect in the background, for ever. Idempotent; raises RuntimeError after
        close().
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
            self._running.start()
        elif self._closing.done():
            raise RuntimeError("the broker connection has been closed")

    async def wait_connected(self, timeout_seconds: float) -> bool:
        """Waits until `connected`, and says whether it is."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.connected:
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def when_connected(self, act: Callable[[], None]) -> None:
        """Has this done each time that messages can be published again: what waited for it need not
        look itself.
        """
        self._on_connected.append(act)

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Publishes persistently and waits at most confirm_timeout_seconds in all for the answers,
        in order.

        A message that AMQP cannot carry (a float header, a key beyond 255 bytes) is REFUSED by
        itself.
        """
        if self._publisher is None or not self._publisher.is_open:
            return [PublishResult(PublishOutcome.LOST, "not connected")] * len(messages)
        if not messages:
            return []
        return await self._publisher.publish(messages, self._confirm_timeout_seconds)

    def consume(self, queue: str, handler: Handler, *, prefetch: int) -> None:
        """Has a queue's messages handled, `prefetch` (1 to 65535) at a time, over every connection
        to come.

        A handler is cancelled when its channel dies; its message is then delivered again.
        """
        if not 1 <= prefetch <= _MAX_PREFETCH:
            raise ValueError(f"prefetch must be from 1 to {_MAX_PREFETCH}")
        consumer = Consumer(queue, handler, prefetch)
        self._consumers.append(consumer)
        if self._link is not None and self._closing is not None:
            self._spawn(self._subscribe(self._link, consumer, self._closing))

    async def queue_depth(self, queue: str) -> tuple[int, int] | None:
        """The queue's ready messages and its consumers; None when it is missing or the broker
        cannot tell.
        """
        if (
            self._link is None or self._link.blocked_reason
        ):  # a blocking broker reads nothing and would not answer
            return None
        try:
            async with self._link.channel() as channel:
                method = (await channel.call("queue_declare", queue=queue, passive=True)).method
        except BrokerCommandError:
            return None
        return method.message_count, method.consumer_count

    async def close(self, timeout_seconds: float = 10.0) -> None:
        """Lets handlers, acks and confirms finish, then closes; what lasts longer is cancelled.
        Idempotent.
        """
        if self._closing is None:
            return
        if not self._closing.done():
            self._closing.set_result(None)
        if not await self._running.stop(timeout_seconds):
            _LOG.warning("broker_close_late", timeout_seconds=timeout_seconds)

    @property
    def task(self) -> TaskStatus:
        """The status of the task that keeps the connection."""
        return self._running.status

    async def _run(self) -> None:
        closing = self._closing
        assert closing is not None  # noqa: S101 - start() sets it before it starts this
        backoff = Backoff(*self._reconnect_seconds)
        clock = asyncio.get_running_loop().time
        while not closing.done():
            began = clock()
            was_up = False
            try:
                link = await Connection.open(self._parameters, closing)
                was_up = True
                await self._use(link, closing)
            except BrokerCommandError as error:
                reason = error.reason
            except Exception as error:  # noqa: BLE001 - logged, and the loop must not end
                _LOG.exception("broker_connection_failed")
                reason = f"unexpected {type(error).__name__}"
            if closing.done():
                break
            self._last_error = reason
            wait = backoff.next(clock() - began if was_up else 0.0)
            event = "broker_lost" if was_up else "broker_unreachable"
            _LOG.warning(event, reason=self._last_error, retry_in_seconds=round(wait, 2))
            await first_of(closing, timeout_seconds=wait)
        _LOG.info("broker_closed")

    async def _use(self, link: Connection, closing: "asyncio.Future[None]") -> None:
        """Returns after a clean close; raises BrokerCommandError when the connection is lost."""
        polite_seconds = CANCEL_SECONDS
        try:
            self._server_version = link.server_version
            publisher = await self._prepare(link)
            self._link = link
            host, port = self._parameters.host, self._parameters.port
            _LOG.info("broker_connected", host=host, port=port, server_version=self._server_version)
            for consumer in self._consumers:
                self._spawn(self._subscribe(link, consumer, closing))
            await self._keep(link, publisher, closing)
            polite_seconds = CLOSE_SECONDS
        finally:
            self._link = self._publisher = None
            if not link.closed.done():  # else they end by themselves
                for task in self._subscribing:
                    task.cancel()
            if self._subscribing:
                await asyncio.wait(self._subscribing)
            await link.close(polite_seconds)

    async def _prepare(self, link: Connection) -> Publisher:
        self._mismatches = await _declare(link, self._topology)
        for sentence in self._mismatches:
            _LOG.warning("topology_mismatch", mismatch=sentence)
        self._publisher = await Publisher.open(link, self._max_unconfirmed)
        self._ready.set()
        for act in self._on_connected:
            act()
        return self._publisher

    async def _keep(
        self, link: Connection, publisher: Publisher, closing: "asyncio.Future[None]"
    ) -> None:
        backoff = Backoff(*self._reconnect_seconds)
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await first_of(link.closed, publisher.closed, closing)
            if link.closed.done():
                raise BrokerCommandError(link.closed.result())
            if closing.done():
                break
            _LOG.warning("publisher_channel_lost", reason=publisher.closed.result().reason)
            publisher = await self._prepare(link)
            # A message that kills the channel again and again must not keep the broker busy
            # declaring.
            await first_of(link.closed, closing, timeout_seconds=backoff.next(clock() - began))
        while self._subscribing:
            await asyncio.wait(self._subscribing)
        self._publisher = None
        await publisher.drained()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._subscribing.add(task)
        task.add_done_callback(self._subscribing.discard)

    async def _subscribe(
        self, link: Connection, consumer: Consumer, closing: "asyncio.Future[None]"
    ) -> None:
        """Keeps one consumer subscribed for as long as the connection lives."""
        backoff = Backoff(*self._reconnect_seconds)
        clock = asyncio.get_running_loop().time
        is_ours = any(queue.name == consumer.queue for queue in self._topology.queues)
        failure: BrokerCommandError | None = None
        while not (closing.done() or link.closed.done()):
            began = clock()
            try:
                if failure is not None and failure.code == NOT_FOUND and is_ours:
                    self._mismatches = await _declare(link, self._topology)
                failure = await self._consume_until_ended(link, consumer, closing)
            except BrokerCommandError as error:
                failure = error
            except (Exception, asyncio.CancelledError) as error:
                if is_own_cancellation(error):
                    raise
                _LOG.exception("consumer_failed", queue=consumer.queue)
                failure = BrokerCommandError(f"unexpected {type(error).__name__}")
            if failure is None or link.closed.done():
                return
            wait = backoff.next(clock() - began)
            told = {"reason": failure.reason, "retry_in_seconds": round(wait, 2)}
            _LOG.warning("consumer_lost", queue=consumer.queue, **told)
            await first_of(closing, link.closed, timeout_seconds=wait)

    async def _consume_until_ended(
        self, link: Connection, consumer: Consumer, closing: "asyncio.Future[None]"
    ) -> BrokerCommandError | None:
        """Returns None when it ends because of close(); raises BrokerCommandError when it could not
        begin.
        """
        subscription = await Subscription.open(link, consumer)
        _LOG.info("consumer_started", queue=consumer.queue, prefetch=consumer.prefetch)
        try:
            await first_of(subscription.ended, closing)
        except asyncio.CancelledError:
            await subscription.abandon()
            raise
        if subscription.is_open:
            # Handlers of a consumer that was merely cancelled finish on the old channel, beside its
            # successor.
            self._spawn(subscription.drain())
        else:
            await subscription.abandon()
        return subscription.ended.result() if subscription.ended.done() else None


def _parameters(url: str, name: str, heartbeat_seconds: int) -> Any:
    try:
        parameters = pika.URLParameters(url)
    except Exception as error:  # noqa: BLE001 - pika raises several kinds
        # The cause is withheld: it may quote the password.
        raise ValueError(f"the broker URL cannot be read ({type(error).__name__})") from None
    if parameters.heartbeat is None:
        parameters.heartbeat = heartbeat_seconds
    parameters.client_properties = {"connection_name": name, **(parameters.client_properties or {})}
    return parameters
