"""Publish with confirms: pipelined, with a bounded window of unconfirmed messages."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, takewhile
from typing import Any

from pika import BasicProperties, spec
from pika import exceptions as pika_errors

from creativeflow.services.aigeneration.adapters.rabbitmq.connection import (
    BrokerCommandError,
    Channel,
    Connection,
    text_of,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.messages import (
    Message,
    PublishOutcome,
    PublishResult,
)

_WRITTEN_AT_ONCE = 64
"""Messages that are encoded before other tasks may run."""
_REMEMBERED = 8
"""Factor on `max_unconfirmed`: number of abandoned messages whose late confirms are still
recognised.
"""


class _Batch:
    """The outcomes of one publish call; `done` resolves when none is missing."""

    __slots__ = ("answers", "done", "missing", "written")

    def __init__(self, size: int) -> None:
        self.answers: list[PublishResult | None] = [None] * size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = size
        self.written = 0

    def settle(self, index: int, publication: PublishResult) -> bool:
        """Record the first outcome of a message; False if it has one already."""
        if self.answers[index] is not None:
            return False
        self.answers[index] = publication
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(None)
        return True


class _Unconfirmed:
    """A message without a confirm or refusal by the broker."""

    __slots__ = ("batch", "index", "key")

    def __init__(self, batch: _Batch, index: int, message: Message) -> None:
        self.batch = batch
        self.index = index
        self.key = (message.message_id, message.exchange, message.routing_key)


_CONFIRMED = PublishResult(PublishOutcome.CONFIRMED)
_NACKED = PublishResult(PublishOutcome.REFUSED, "refused by the broker")


class Publisher:
    """A channel in confirm mode that pipelines messages within a window of unconfirmed ones."""

    def __init__(self, connection: Connection, channel: Channel, max_unconfirmed: int) -> None:
        self._connection = connection
        self._channel = channel
        self._max_unconfirmed = max_unconfirmed
        self._unconfirmed: dict[int, _Unconfirmed] = {}  # by delivery tag, ascending
        self._in_flight = 0  # those whose publish call still waits
        self._last_tag = 0
        self._last_returned_tag = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._batches: set[asyncio.Future[None]] = set()
        channel.amqp.add_on_return_callback(self._on_return)
        channel.closed.add_done_callback(self._on_closed)
        connection.on_blocked = self._room.set

    @classmethod
    async def open(cls, connection: Connection, max_unconfirmed: int) -> "Publisher":
        """Open the channel.

        Raises:
            BrokerCommandError: the broker does not open it.
        """
        channel = await connection.open_channel()
        publisher = cls(connection, channel, max_unconfirmed)
        try:
            await channel.call("confirm_delivery", ack_nack_callback=publisher._on_confirm)
        except BaseException:
            channel.close()
            raise
        return publisher

    @property
    def is_open(self) -> bool:
        """Whether messages can be published."""
        return self._channel.amqp.is_open is True

    @property
    def closed(self) -> "asyncio.Future[BrokerCommandError]":
        """Resolves with the reason when the channel has closed."""
        return self._channel.closed

    async def publish(
        self, messages: Sequence[Message], timeout_seconds: float
    ) -> list[PublishResult]:
        """Write all messages and wait for their outcomes, in order.

        The timeout includes the wait for room in the window.
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
        """Wait until no publish call waits."""
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
                # Only between parts of a batch: calls of one turn of the loop share a system call.
                if batch.written < len(messages):
                    await asyncio.sleep(0)

    def _refusal(self) -> str:
        if self.closed.done():
            return self.closed.result().reason
        return self._connection.blocked_reason

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
        # The broker returns messages in publishing order, so the search continues at the last one.
        for tag in chain(range(self._last_returned_tag + 1, self._last_tag + 1), self._unconfirmed):
            message = self._unconfirmed.get(tag)
            if message is not None and message.key == key:
                self._last_returned_tag = tag
                reason = f"{method.reply_code} {text_of(method.reply_text)}"
                self._settle(message, PublishResult(PublishOutcome.RETURNED, reason))
                return

    def _on_closed(self, closed: "asyncio.Future[BrokerCommandError]") -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for message in unconfirmed.values():
            self._settle(message, PublishResult(PublishOutcome.LOST, closed.result().reason))
        self._room.set()
