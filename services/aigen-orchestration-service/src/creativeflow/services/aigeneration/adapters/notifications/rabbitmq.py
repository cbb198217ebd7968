"""Publish notifications to the RabbitMQ queue of the notification service, and lifecycle events to
the topic exchange.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson

from creativeflow.services.aigeneration.adapters.notifications.payload import notification_data
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Broker,
    Message,
    PublishOutcome,
    PublishResult,
)
from creativeflow.services.aigeneration.ports import NotifierRefusedError, NotifierUnavailableError

SOURCE = "aigen-orchestration-service"


class RabbitMQNotifier:
    """The Notifier port on the default exchange.

    `channels` must not be empty: the receiver drops such messages.
    """

    def __init__(self, broker: Broker, *, queue: str, channels: Sequence[str]) -> None:
        if not channels:
            raise ValueError(
                "at least one target channel is needed, or notifications are silently dropped"
            )
        self._broker = broker
        self._queue = queue
        self._channels = list(channels)

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Publish one notification and wait for the broker's confirm."""
        body = {
            "user_id": notification["user_id"],
            "event_type": notification["event_type"],
            "data": notification_data(notification),
            "target_channels": self._channels,
        }
        message = Message(
            exchange="",
            routing_key=self._queue,
            body=orjson.dumps(body),
            message_id=notification["event_id"],
            correlation_id=notification["correlation_id"],
            type="notification",
        )
        confirmed_or_raise((await self._broker.publish([message]))[0])


class EventPublisher:
    """Publishes lifecycle events as `generation.<event>`; an event that reaches no queue is no
    error.
    """

    def __init__(self, broker: Broker, *, exchange: str) -> None:
        self._broker = broker
        self._exchange = exchange

    async def publish(self, event: Mapping[str, Any]) -> None:
        """Publish one event in its envelope and wait for the broker's confirm."""
        envelope = {
            "eventId": event["event_id"],
            "eventType": f"generation.{event['event_type']}",
            "eventVersion": "1.0",
            "eventTimestamp": event["at"],
            "sourceService": SOURCE,
            "correlationId": event["correlation_id"],
            "userId": event["user_id"],
            "data": event["data"],
        }
        message = Message(
            exchange=self._exchange,
            routing_key=envelope["eventType"],
            body=orjson.dumps(envelope),
            message_id=event["event_id"],
            correlation_id=event["correlation_id"],
            type=envelope["eventType"],
        )
        publication = (await self._broker.publish([message]))[0]
        if publication.outcome is not PublishOutcome.RETURNED:
            confirmed_or_raise(publication)


def confirmed_or_raise(publication: PublishResult) -> None:
    """Raise the error of the Notifier port for a message that was not confirmed."""
    match publication.outcome:
        case PublishOutcome.CONFIRMED:
            return
        case PublishOutcome.RETURNED:
            raise NotifierRefusedError("no queue takes this message; declare it, then replay")
        case _:
            raise NotifierUnavailableError(publication.reason, retry_after=timedelta(seconds=1))
