"""The connection of the service to RabbitMQ: reconnects, declares, publishes and consumes."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pika
import structlog

from creativeflow.services.aigeneration.adapters.rabbitmq.connection import (
    CANCEL_SECONDS,
    CLOSE_SECONDS,
    NOT_FOUND,
    Backoff,
    BrokerCommandError,
    Connection,
    first_of,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.consumer import (
    Consumer,
    QueueSubscription,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.messages import (
    AckDecision,
    Delivery,
    Handler,
    Message,
    PublishOutcome,
    PublishResult,
    TryAgainError,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.publisher import Publisher
from creativeflow.services.aigeneration.adapters.rabbitmq.topology import (
    Binding,
    Exchange,
    Queue,
    Topology,
    declare,
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


class Broker:
    """A connection to RabbitMQ that reconnects by itself.

    All methods must be called in the event loop that called start().
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
        self._connection: Connection | None = None
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
        """Whether messages can be published: connected, topology declared, channel open."""
        return self._publisher is not None and self._publisher.is_open

    @property
    def last_error(self) -> str:
        """Why the connection last failed or was lost; kept after a reconnect."""
        return self._last_error

    @property
    def blocked_reason(self) -> str:
        """Why the broker blocks publishers (a resource alarm); empty while it does not."""
        return self._connection.blocked_reason if self._connection else ""

    @property
    def server_version(self) -> str | None:
        """The broker's version as of the last connection, None before the first."""
        return self._server_version

    @property
    def mismatches(self) -> list[str]:
        """One sentence for each exchange or queue that has other arguments, as of the last
        connection.
        """
        return list(self._mismatches)

    async def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost. Idempotent.

        Raises:
            RuntimeError: after close().
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
            self._running.start()
        elif self._closing.done():
            raise RuntimeError("the broker connection has been closed")

    async def wait_connected(self, timeout_seconds: float) -> bool:
        """Wait until `connected`; return False when the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.connected:
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def when_connected(self, act: Callable[[], None]) -> None:
        """Call `act` each time that messages can be published again."""
        self._on_connected.append(act)

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Publish persistent messages; return their outcomes in order.

        Waits at most `confirm_timeout_seconds` for all of them together. A message that AMQP cannot
        carry (a float header, a key beyond 255 bytes) is REFUSED without affecting the others.
        """
        if self._publisher is None or not self._publisher.is_open:
            return [PublishResult(PublishOutcome.LOST, "not connected")] * len(messages)
        if not messages:
            return []
        return await self._publisher.publish(messages, self._confirm_timeout_seconds)

    def consume(self, queue: str, handler: Handler, *, prefetch: int) -> None:
        """Handle the messages of a queue, `prefetch` (1 to 65535) at a time, on every connection.

        A handler is cancelled when its channel dies; its message is then delivered again.
        """
        if not 1 <= prefetch <= _MAX_PREFETCH:
            raise ValueError(f"prefetch must be from 1 to {_MAX_PREFETCH}")
        consumer = Consumer(queue, handler, prefetch)
        self._consumers.append(consumer)
        if self._connection is not None and self._closing is not None:
            self._spawn(self._subscribe(self._connection, consumer, self._closing))

    async def queue_depth(self, queue: str) -> tuple[int, int] | None:
        """Return the numbers of ready messages and consumers; None if the queue is missing or the
        broker does not respond.
        """
        # A broker that blocks publishers reads nothing and would not respond.
        if self._connection is None or self._connection.blocked_reason:
            return None
        try:
            async with self._connection.channel() as channel:
                method = (await channel.call("queue_declare", queue=queue, passive=True)).method
        except BrokerCommandError:
            return None
        return method.message_count, method.consumer_count

    async def close(self, timeout_seconds: float = 10.0) -> None:
        """Let handlers, acks and confirms finish, then close; cancel what takes longer.

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
        """The status of the task that holds the connection."""
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
                connection = await Connection.open(self._parameters, closing)
                was_up = True
                await self._use(connection, closing)
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

    async def _use(self, connection: Connection, closing: "asyncio.Future[None]") -> None:
        """Use a connection until close(); raise BrokerCommandError when it is lost."""
        close_seconds = CANCEL_SECONDS
        try:
            self._server_version = connection.server_version
            publisher = await self._prepare(connection)
            self._connection = connection
            host, port = self._parameters.host, self._parameters.port
            _LOG.info("broker_connected", host=host, port=port, server_version=self._server_version)
            for consumer in self._consumers:
                self._spawn(self._subscribe(connection, consumer, closing))
            await self._keep(connection, publisher, closing)
            close_seconds = CLOSE_SECONDS
        finally:
            self._connection = self._publisher = None
            if not connection.closed.done():  # otherwise they end by themselves
                for task in self._subscribing:
                    task.cancel()
            if self._subscribing:
                await asyncio.wait(self._subscribing)
            await connection.close(close_seconds)

    async def _prepare(self, connection: Connection) -> Publisher:
        self._mismatches = await declare(connection, self._topology)
        for sentence in self._mismatches:
            _LOG.warning("topology_mismatch", mismatch=sentence)
        self._publisher = await Publisher.open(connection, self._max_unconfirmed)
        self._ready.set()
        for act in self._on_connected:
            act()
        return self._publisher

    async def _keep(
        self, connection: Connection, publisher: Publisher, closing: "asyncio.Future[None]"
    ) -> None:
        backoff = Backoff(*self._reconnect_seconds)
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await first_of(connection.closed, publisher.closed, closing)
            if connection.closed.done():
                raise BrokerCommandError(connection.closed.result())
            if closing.done():
                break
            _LOG.warning("publisher_channel_lost", reason=publisher.closed.result().reason)
            publisher = await self._prepare(connection)
            # A message that kills the channel again and again must not keep the broker busy
            # declaring.
            await first_of(
                connection.closed, closing, timeout_seconds=backoff.next(clock() - began)
            )
        while self._subscribing:
            await asyncio.wait(self._subscribing)
        self._publisher = None
        await publisher.drained()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._subscribing.add(task)
        task.add_done_callback(self._subscribing.discard)

    async def _subscribe(
        self, connection: Connection, consumer: Consumer, closing: "asyncio.Future[None]"
    ) -> None:
        """Keep one consumer subscribed as long as the connection lives."""
        backoff = Backoff(*self._reconnect_seconds)
        clock = asyncio.get_running_loop().time
        is_ours = any(queue.name == consumer.queue for queue in self._topology.queues)
        failure: BrokerCommandError | None = None
        while not (closing.done() or connection.closed.done()):
            began = clock()
            try:
                if failure is not None and failure.code == NOT_FOUND and is_ours:
                    self._mismatches = await declare(connection, self._topology)
                failure = await self._consume_until_ended(connection, consumer, closing)
            except BrokerCommandError as error:
                failure = error
            except (Exception, asyncio.CancelledError) as error:
                if is_own_cancellation(error):
                    raise
                _LOG.exception("consumer_failed", queue=consumer.queue)
                failure = BrokerCommandError(f"unexpected {type(error).__name__}")
            if failure is None or connection.closed.done():
                return
            wait = backoff.next(clock() - began)
            reason = {"reason": failure.reason, "retry_in_seconds": round(wait, 2)}
            _LOG.warning("consumer_lost", queue=consumer.queue, **reason)
            await first_of(closing, connection.closed, timeout_seconds=wait)

    async def _consume_until_ended(
        self, connection: Connection, consumer: Consumer, closing: "asyncio.Future[None]"
    ) -> BrokerCommandError | None:
        """Consume until the subscription ends; return its error, None if close() ended it.

        Raises:
            BrokerCommandError: the subscription could not be opened.
        """
        subscription = await QueueSubscription.open(connection, consumer)
        _LOG.info("consumer_started", queue=consumer.queue, prefetch=consumer.prefetch)
        try:
            await first_of(subscription.ended, closing)
        except asyncio.CancelledError:
            await subscription.abandon()
            raise
        if subscription.is_open:
            # Handlers of a cancelled consumer finish on the old channel, in parallel with its
            # successor.
            self._spawn(subscription.drain())
        else:
            await subscription.abandon()
        return subscription.ended.result() if subscription.ended.done() else None


def _parameters(url: str, name: str, heartbeat_seconds: int) -> Any:
    try:
        parameters = pika.URLParameters(url)
    except Exception as error:  # noqa: BLE001 - pika raises several kinds
        # The cause is not chained: it may contain the password.
        raise ValueError(f"the broker URL cannot be read ({type(error).__name__})") from None
    if parameters.heartbeat is None:
        parameters.heartbeat = heartbeat_seconds
    parameters.client_properties = {"connection_name": name, **(parameters.client_properties or {})}
    return parameters
