"""Consume a queue: a bounded number of handlers, whose results acknowledge their messages."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import structlog
from pika import exceptions as pika_errors

from creativeflow.services.aigeneration.adapters.rabbitmq.connection import (
    CANCEL_SECONDS,
    NOT_FOUND,
    Backoff,
    BrokerCommandError,
    Channel,
    Connection,
    first_of,
    optional_text,
    text_of,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.messages import (
    AckDecision,
    Delivery,
    Handler,
    TryAgainError,
)
from creativeflow.services.aigeneration.kit.supervision import is_own_cancellation

_LOG = structlog.get_logger(__name__)

RETRY_SECONDS = (0.2, 10.0)
"""The shortest and the longest pause before a failed handler runs again."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A queue and its handler; at most `prefetch` handlers run at a time."""

    queue: str
    handler: Handler
    prefetch: int


class QueueSubscription:
    """One consumer on its own channel; `ended` resolves with the reason when deliveries stop."""

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
    async def open(cls, connection: Connection, consumer: Consumer) -> "QueueSubscription":
        """Start to consume.

        Raises:
            BrokerCommandError: the broker refuses; its code is NOT_FOUND if the queue is missing.
        """
        channel = await connection.open_channel()
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
        """Whether handlers can still acknowledge."""
        return self._channel.amqp.is_open is True

    async def drain(self) -> None:
        """Take no more deliveries, wait for the running handlers, then close the channel.

        Failed handlers are not run again: the broker requeues their messages.
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
        """Close the channel and cancel running handlers; the broker requeues their messages."""
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
            routing_key=text_of(method.routing_key),
            exchange=text_of(method.exchange),
            redelivered=method.redelivered,
            message_id=optional_text(properties.message_id),
            correlation_id=optional_text(properties.correlation_id),
            type=optional_text(properties.type),
            headers=properties.headers or {},
        )
        task = self._loop.create_task(self._handle(method.delivery_tag, delivery))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle(self, delivery_tag: int, delivery: Delivery) -> None:
        backoff = Backoff(*RETRY_SECONDS)
        for attempt in count(1):
            try:
                decision = AckDecision(await self._consumer.handler(delivery))
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                # The handler was cancelled from inside: the message must still be settled.
                self._log_failure(delivery, attempt, error)
            except TryAgainError as error:
                _LOG.warning(
                    "handler_waits", queue=self._consumer.queue, attempt=attempt, reason=str(error)
                )
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the message stays
                self._log_failure(delivery, attempt, error)
            else:
                self._acknowledge(delivery_tag, decision)
                return
            await asyncio.wait({self._stopping}, timeout=backoff.next())
            if self._stopping.done():
                return

    def _log_failure(self, delivery: Delivery, attempt: int, error: BaseException) -> None:
        queue, message_id = self._consumer.queue, delivery.message_id
        _LOG.error(
            "handler_failed", queue=queue, message_id=message_id, attempt=attempt, exc_info=error
        )

    def _acknowledge(self, delivery_tag: int, decision: AckDecision) -> None:
        with suppress(
            pika_errors.AMQPError
        ):  # a closed channel has already returned the message to the broker
            if decision is AckDecision.ACK:
                self._channel.amqp.basic_ack(delivery_tag)
            else:
                self._channel.amqp.basic_reject(
                    delivery_tag, requeue=decision is AckDecision.REQUEUE
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
