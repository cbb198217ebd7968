"""One RabbitMQ connection and its channels, made awaitable: publishing with confirms, consuming
with acks.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from itertools import chain, count, takewhile
from typing import Any

import structlog
from pika import BasicProperties, spec
from pika import exceptions as pika_errors
from pika.adapters.asyncio_connection import AsyncioConnection

from creativeflow.services.aigeneration.kit.supervision import is_own_cancellation

_LOG = structlog.get_logger(__name__)

STEP_SECONDS = 10.0  # the longest wait for the broker's answer to one command
CLOSE_SECONDS = 5.0  # the longest wait for a polite end of a connection
CANCEL_SECONDS = 2.0  # the longest wait for a cancelled handler to end
RETRY_SECONDS = (0.2, 10.0)  # between two attempts of a handler that failed
NOT_FOUND = 404

_WRITTEN_AT_ONCE = 64  # messages encoded before other tasks get their turn
_REMEMBERED = 8  # times max_unconfirmed: messages given up whose late answers are still recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to publish; header values may be what AMQP knows: no floats, no tuples."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str | None = None
    type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    timestamp: int | None = field(default_factory=lambda: int(time.time()))  # unix seconds


class PublishOutcome(StrEnum):
    """What became of a published message; after LOST it may or may not be in its queues."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The answer to one published message; the reason is empty when it is confirmed."""

    outcome: PublishOutcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as its consumer receives it."""

    body: bytes = field(repr=False)
    routing_key: str
    exchange: str
    redelivered: bool
    message_id: str | None
    correlation_id: str | None
    type: str | None
    headers: dict[str, Any]


class TryAgainError(Exception):
    """What a handler raises when something it needs is away for the moment: no fault, so no
    traceback.
    """


class AckDecision(Enum):
    """A handler's answer: done, dead-letter or drop it, or put it back at once (without any
    pause).
    """

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


Handler = Callable[[Delivery], Awaitable[AckDecision]]


@dataclass(frozen=True, slots=True)
class Consumer:
    """What is wanted of one subscription: at most `prefetch` handlers run at a time."""

    queue: str
    handler: Handler
    prefetch: int


class BrokerCommandError(Exception):
    """The broker refused a command (then with its reply code), did not answer in time or is gone
    (code 0).
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Backoff:
    """Waits drawn at random between a floor and a ceiling that doubles up to its limit, in
    seconds.
    """

    def __init__(self, floor: float, limit: float) -> None:
        self._floor = floor
        self._limit = limit
        self._ceiling = floor

    def next(self, lived_seconds: float = 0.0) -> float:
        """The next wait; the shortest again when what failed had lived for longer than the
        limit.
        """
        if lived_seconds > self._limit:
            self._ceiling = self._floor
        self._ceiling = min(self._limit, self._ceiling * 2)
        return random.uniform(self._floor, self._ceiling)  # noqa: S311 - spreads load, guards nothing


def in_words(error: BaseException) -> str:
    """The innermost cause in one line for a person."""
    causes = getattr(error, "exceptions", None) or [
        getattr(error, "exception", None),
        *error.args[:1],
    ]
    inner = next((cause for cause in reversed(causes) if isinstance(cause, BaseException)), None)
    if inner is not None:
        return in_words(inner)
    words = str(error) or type(error).__name__
    match error:
        case pika_errors.ConnectionClosedByBroker() | pika_errors.ChannelClosedByBroker():
            words = f"{error.reply_code} {error.reply_text}"
        case pika_errors.ConnectionClosedByClient() | pika_errors.ChannelClosedByClient():
            words = "closed by this side"
        case pika_errors.ConnectionOpenAborted():
            words = "the broker did not finish the handshake in time"
        case pika_errors.AMQPHeartbeatTimeout():
            words = "the broker has given no sign of life within the heartbeat"
        case pika_errors.ProbableAuthenticationError():
            words = f"login refused ({error})"
        case pika_errors.ProbableAccessDeniedError():
            words = f"virtual host refused ({error})"
        case OSError(strerror=str(told)) if told:
            words = told.lower()
    return words


async def first_of(*futures: "asyncio.Future[Any]", timeout_seconds: float | None = None) -> None:
    """Returns when one of the futures is done or the time is up; leaves them as they are."""
    await asyncio.wait(set(futures), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)


class _Together(AsyncioConnection):  # type: ignore[misc]  # pika ships no type information
    """Sends what is written in one turn of the loop as one piece: pika hands the system every frame
    by itself.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._held: list[bytes] = []
        super().__init__(*arguments, **named)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._held:
            asyncio.get_running_loop().call_soon(self._send_held)
        self._held.append(data)

    def _send_held(self) -> None:
        held, self._held = b"".join(self._held), []
        if (
            self._transport is not None
        ):  # else the connection was lost meanwhile, and its end is told elsewhere
            super()._adapter_emit_data(held)


class Connection:
    """One connection to the broker; `closed` resolves with the reason in words."""

    def __init__(self, parameters: Any) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.blocked_reason = ""
        self.on_blocked: Callable[[], None] = lambda: None
        self._opened: asyncio.Future[None] = loop.create_future()
        self._connection = _Together(
            parameters,
            on_open_callback=lambda _connection: self._opened.set_result(None),
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=loop,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    @classmethod
    async def open(cls, parameters: Any, interrupt: "asyncio.Future[None]") -> "Connection":
        """Connects once; raises BrokerCommandError when that fails, takes too long or is
        interrupted.
        """
        link = cls(parameters)
        # pika bounds everything but the name's resolution; a name may stand for two addresses.
        bound = parameters.connection_attempts * (
            2 * parameters.stack_timeout + parameters.retry_delay
        )
        try:
            await first_of(link._opened, link.closed, interrupt, timeout_seconds=bound)
        finally:
            failure = (
                link.closed.result()
                if link.closed.done()
                else f"connecting took longer than {bound:g} s"
            )
            if not link.is_open:
                await link.close(CANCEL_SECONDS)
        if link.is_open:
            return link
        raise BrokerCommandError("closing" if interrupt.done() else failure)

    @property
    def is_open(self) -> bool:
        """True from the end of the handshake until the connection closes or is lost."""
        return self._connection.is_open is True

    @property
    def server_version(self) -> str | None:
        """What the broker calls its version."""
        version = (self._connection.server_properties or {}).get("version")
        return None if version is None else _text(version)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator["Channel"]:
        """A channel to throw away; it is closed behind the caller's back, without a wait."""
        channel = await self.open_channel()
        try:
            yield channel
        finally:
            channel.close()

    async def open_channel(self) -> "Channel":
        """Opens a channel that lives until it is closed; raises BrokerCommandError."""
        try:
            channel = Channel(self._connection)
        except pika_errors.AMQPError as error:
            raise BrokerCommandError(in_words(error)) from error
        try:
            await channel.answer(channel.opened, "opening a channel")
        except BaseException:
            channel.close()
            raise
        return channel

    async def close(self, timeout_seconds: float) -> None:
        """Says goodbye, and cuts the stream when that takes longer. Idempotent."""
        try:
            if self.is_open:
                self._connection.close()
                await first_of(self.closed, timeout_seconds=timeout_seconds)
        finally:
            if not self.closed.done():
                # pika has no public way to give up on a silent peer (its own heartbeat does it like
                # this), and its close() during a handshake ends in an AssertionError.
                error = pika_errors.AMQPConnectionError("the connection was given up")
                self._connection._terminate_stream(error)  # noqa: SLF001
        await first_of(self.closed, timeout_seconds=timeout_seconds)

    def _on_closed(self, _connection: Any, error: BaseException) -> None:
        if not self.closed.done():
            self.closed.set_result(in_words(error))

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked_reason = f"broker is blocking publishers ({_text(frame.method.reason)})"
        _LOG.warning("broker_blocked", reason=_text(frame.method.reason))
        self.on_blocked()

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked_reason = ""
        _LOG.info("broker_unblocked")


class Channel:
    """One channel whose commands can be awaited; `closed` resolves with the reason."""

    def __init__(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[BrokerCommandError] = loop.create_future()
        self.opened: asyncio.Future[Any] = loop.create_future()
        self.amqp = connection.channel(on_open_callback=self.opened.set_result)
        self.amqp.add_on_close_callback(self._on_closed)

    async def call(self, command: str, **arguments: Any) -> Any:
        """Sends a command of pika's channel and returns the answer's frame; raises
        BrokerCommandError.
        """
        answer = asyncio.get_running_loop().create_future()
        try:
            getattr(self.amqp, command)(**arguments, callback=answer.set_result)
        except pika_errors.AMQPError as error:
            raise BrokerCommandError(in_words(error)) from error
        return await self.answer(answer, command.replace("_", " "))

    async def answer(self, answer: "asyncio.Future[Any]", step: str) -> Any:
        """Waits for an answer, the channel's end or STEP_SECONDS, whichever comes first."""
        await first_of(answer, self.closed, timeout_seconds=STEP_SECONDS)
        if answer.done():
            return answer.result()
        if self.closed.done():
            raise self.closed.result()
        raise BrokerCommandError(f"{step} took longer than {STEP_SECONDS:g} s")

    def close(self) -> None:
        """Asks for the channel's end without waiting for it. Idempotent."""
        if not (self.amqp.is_closed or self.amqp.is_closing):
            self.amqp.close()

    def _on_closed(self, _channel: Any, error: BaseException) -> None:
        code = error.reply_code if isinstance(error, pika_errors.ChannelClosedByBroker) else 0
        self.closed.set_result(BrokerCommandError(in_words(error), code))


class _Batch:
    """The answers to one publish, filled in as they come; `done` when none is missing."""

    __slots__ = ("answers", "done", "missing", "written")

    def __init__(self, size: int) -> None:
        self.answers: list[PublishResult | None] = [None] * size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = size
        self.written = 0

    def settle(self, index: int, publication: PublishResult) -> bool:
        """Takes the first answer for a message and says whether it was the first."""
        if self.answers[index] is not None:
            return False
        self.answers[index] = publication
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(None)
        return True


class _Unconfirmed:
    """A message on its way, until the broker has acknowledged or refused its delivery tag."""

    __slots__ = ("batch", "index", "key")

    def __init__(self, batch: _Batch, index: int, message: Message) -> None:
        self.batch = batch
        self.index = index
        self.key = (message.message_id, message.exchange, message.routing_key)


_CONFIRMED = PublishResult(PublishOutcome.CONFIRMED)
_NACKED = PublishResult(PublishOutcome.REFUSED, "refused by the broker")


class Publisher:
    """The channel for publishing: in confirm mode, pipelined, with a window of unconfirmed
    messages.
    """

    def __init__(self, link: Connection, channel: Channel, max_unconfirmed: int) -> None:
        self._link = link
        self._channel = channel
        self._max_unconfirmed = max_unconfirmed
        self._unconfirmed: dict[int, _Unconfirmed] = {}  # by delivery tag, ascending
        self._in_flight = 0  # those of them that somebody still waits for
        self._last_tag = 0
        self._last_returned_tag = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._batches: set[asyncio.Future[None]] = set()
        channel.amqp.add_on_return_callback(self._on_return)
        channel.closed.add_done_callback(self._on_closed)
        link.on_blocked = self._room.set

    @classmethod
    async def open(cls, link: Connection, max_unconfirmed: int) -> "Publisher":
        """Opens the channel; raises BrokerCommandError."""
        channel = await link.open_channel()
        publisher = cls(link, channel, max_unconfirmed)
        try:
            await channel.call("confirm_delivery", ack_nack_callback=publisher._on_confirm)
        except BaseException:
            channel.close()
            raise
        return publisher

    @property
    def is_open(self) -> bool:
        """Whether the channel takes messages."""
        return self._channel.amqp.is_open is True

    @property
    def closed(self) -> "asyncio.Future[BrokerCommandError]":
        """Resolves with the reason when the channel has closed."""
        return self._channel.closed

    async def publish(
        self, messages: Sequence[Message], timeout_seconds: float
    ) -> list[PublishResult]:
        """Writes all messages and waits for their answers, the wait for room in the window
        included.
        """
        batch = _Batch(len(messages))
        self._batches.add(batch.done)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._write_all(batch, messages)
                    await batch.done
        finally:
            self._give_up(batch, timeout_seconds)
            self._batches.discard(batch.done)
        return [answer for answer in batch.answers if answer is not None]

    async def drained(self) -> None:
        """Returns when nobody waits for an answer any more."""
        while self._batches:
            await asyncio.wait(self._batches)

    async def _write_all(self, batch: _Batch, messages: Sequence[Message]) -> None:
        async with self._turn:
            while batch.written < len(messages):
                if refusal := self._refusal():
                    for index in range(batch.written, len(messages)):
                        batch.settle(index, PublishResult(PublishOutcome.LOST, refusal))
                    return
                room = min(self._max_unconfirmed - self._in_flight, _WRITTEN_AT_ONCE)
                if room <= 0:
                    self._room.clear()
                    await self._room.wait()
                    continue
                for message in messages[batch.written : batch.written + room]:
                    self._write(batch, message)
                await asyncio.sleep(0)

    def _refusal(self) -> str:
        if self.closed.done():
            return self.closed.result().reason
        return self._link.blocked_reason

    def _write(self, batch: _Batch, message: Message) -> None:
        index, batch.written = batch.written, batch.written + 1
        properties = BasicProperties(
            content_type=message.content_type,
            headers=dict(message.headers),
            delivery_mode=2,
            correlation_id=message.correlation_id,
            message_id=message.message_id,
            timestamp=message.timestamp,
            type=message.type,
        )
        try:
            self._channel.amqp.basic_publish(
                message.exchange, message.routing_key, message.body, properties, mandatory=True
            )
        except (pika_errors.ChannelWrongStateError, pika_errors.ConnectionWrongStateError):
            batch.settle(
                index, PublishResult(PublishOutcome.LOST, self._refusal() or "not connected")
            )
        except Exception as error:  # noqa: BLE001 - pika's encoder raises whatever it meets; nothing is written then
            reason = f"the message cannot be written as AMQP ({type(error).__name__})"
            batch.settle(index, PublishResult(PublishOutcome.REFUSED, reason))
        else:
            self._last_tag += 1
            self._in_flight += 1
            self._unconfirmed[self._last_tag] = _Unconfirmed(batch, index, message)
            if len(self._unconfirmed) > self._max_unconfirmed * _REMEMBERED:
                del self._unconfirmed[next(iter(self._unconfirmed))]

    def _give_up(self, batch: _Batch, seconds: float) -> None:
        for index, answer in enumerate(batch.answers):
            if answer is None:
                words = (
                    "not confirmed within"
                    if index < batch.written
                    else "still waiting for its turn after"
                )
                batch.settle(index, PublishResult(PublishOutcome.LOST, f"{words} {seconds:g} s"))
                self._leave(index < batch.written)

    def _settle(self, message: _Unconfirmed, publication: PublishResult) -> None:
        self._leave(message.batch.settle(message.index, publication))

    def _leave(self, was_in_flight: bool) -> None:
        self._in_flight -= was_in_flight
        self._room.set()

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        publication = _CONFIRMED if isinstance(frame.method, spec.Basic.Ack) else _NACKED
        multiple = frame.method.multiple
        for each in list(takewhile(lambda t: t <= tag, self._unconfirmed)) if multiple else (tag,):
            message = self._unconfirmed.pop(each, None)
            if message is not None:
                self._settle(message, publication)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        key = (properties.message_id, method.exchange, method.routing_key)
        # The broker returns in the order of publishing, so the search goes on where the last one
        # ended.
        for tag in chain(range(self._last_returned_tag + 1, self._last_tag + 1), self._unconfirmed):
            message = self._unconfirmed.get(tag)
            if message is not None and message.key == key:
                self._last_returned_tag = tag
                reason = f"{method.reply_code} {_text(method.reply_text)}"
                self._settle(message, PublishResult(PublishOutcome.RETURNED, reason))
                return

    def _on_closed(self, closed: "asyncio.Future[BrokerCommandError]") -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for message in unconfirmed.values():
            self._settle(message, PublishResult(PublishOutcome.LOST, closed.result().reason))
        self._room.set()


class Subscription:
    """One consumer on a channel of its own; `ended` resolves with the reason when deliveries
    stop.
    """

    def __init__(self, channel: Channel, consumer: Consumer) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[BrokerCommandError] = self._loop.create_future()
        self._channel = channel
        self._consumer = consumer
        self._tag = ""
        self._stopping: asyncio.Future[None] = self._loop.create_future()
        self._handling: set[asyncio.Task[None]] = set()
        channel.closed.add_done_callback(self._on_closed)
        channel.amqp.add_on_cancel_callback(self._on_cancelled)

    @classmethod
    async def open(cls, link: Connection, consumer: Consumer) -> "Subscription":
        """Begins to consume; raises BrokerCommandError, with NOT_FOUND when there is no such
        queue.
        """
        channel = await link.open_channel()
        subscription = cls(channel, consumer)
        try:
            await channel.call("basic_qos", prefetch_count=consumer.prefetch)
            on_message = subscription._on_message
            frame = await channel.call(
                "basic_consume", queue=consumer.queue, on_message_callback=on_message
            )
            subscription._tag = frame.method.consumer_tag
        except BaseException:
            await subscription.abandon()
            raise
        return subscription

    @property
    def is_open(self) -> bool:
        """Whether its handlers can still answer."""
        return self._channel.amqp.is_open is True

    async def drain(self) -> None:
        """Takes no more deliveries, lets the running handlers answer, then closes the channel.

        Failed handlers are not tried again: the broker gets their messages back.
        """
        self._stopping.set_result(None)
        try:
            if not self.ended.done():
                with suppress(BrokerCommandError):
                    await self._channel.call("basic_cancel", consumer_tag=self._tag)
            closed = self._channel.closed
            while self._handling and not closed.done():
                await first_of(*self._handling, closed)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Closes the channel and cancels what still runs; its messages come back by themselves."""
        self._channel.close()
        for task in self._handling:
            task.cancel()
        if self._handling:
            _, stubborn = await asyncio.wait(self._handling, timeout=CANCEL_SECONDS)
            for task in stubborn:
                _LOG.warning(
                    "handler_ignores_cancellation", queue=self._consumer.queue, task=task.get_name()
                )

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        delivery = Delivery(
            body=body,
            routing_key=_text(method.routing_key),
            exchange=_text(method.exchange),
            redelivered=method.redelivered,
            message_id=_optional_text(properties.message_id),
            correlation_id=_optional_text(properties.correlation_id),
            type=_optional_text(properties.type),
            headers=properties.headers or {},
        )
        task = self._loop.create_task(self._handle(method.delivery_tag, delivery))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle(self, delivery_tag: int, delivery: Delivery) -> None:
        backoff = Backoff(*RETRY_SECONDS)
        for attempt in count(1):
            try:
                verdict = AckDecision(await self._consumer.handler(delivery))
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                # The handler was cancelled by itself: the message must not be forgotten.
                self._log_failure(delivery, attempt, error)
            except TryAgainError as error:
                _LOG.warning(
                    "handler_waits", queue=self._consumer.queue, attempt=attempt, reason=str(error)
                )
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the message stays
                self._log_failure(delivery, attempt, error)
            else:
                self._answer(delivery_tag, verdict)
                return
            await asyncio.wait({self._stopping}, timeout=backoff.next())
            if self._stopping.done():
                return

    def _log_failure(self, delivery: Delivery, attempt: int, error: BaseException) -> None:
        queue, message_id = self._consumer.queue, delivery.message_id
        _LOG.error(
            "handler_failed", queue=queue, message_id=message_id, attempt=attempt, exc_info=error
        )

    def _answer(self, delivery_tag: int, verdict: AckDecision) -> None:
        with suppress(pika_errors.AMQPError):  # a dead channel has given the message back already
            if verdict is AckDecision.ACK:
                self._channel.amqp.basic_ack(delivery_tag)
            else:
                self._channel.amqp.basic_reject(
                    delivery_tag, requeue=verdict is AckDecision.REQUEUE
                )

    def _on_cancelled(self, _frame: Any) -> None:
        if not self.ended.done():
            self.ended.set_result(
                BrokerCommandError(
                    "the broker cancelled the consumer; its queue is gone", NOT_FOUND
                )
            )

    def _on_closed(self, closed: "asyncio.Future[BrokerCommandError]") -> None:
        if not self.ended.done():
            self.ended.set_result(closed.result())


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)
