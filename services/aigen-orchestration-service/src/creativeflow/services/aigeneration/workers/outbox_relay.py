"""Outbox relay: deliver notifications, events, captures and releases, each at least once."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.domain.transitions import StateChange, Topic
from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsUndecidableError,
    CreditsUnknownError,
    NotifierRefusedError,
    NotifierUnavailableError,
)
from creativeflow.services.aigeneration.storage.batch_writer import (
    BatchWriter,
    DeliveredMessage,
    LeasedMessage,
)
from creativeflow.services.aigeneration.storage.outbox import (
    DEAD_LETTER,
    Delivered,
    Outbox,
    Outcome,
    Parked,
    RetryLater,
)

log = structlog.get_logger(__name__)

Handler = Callable[[Any], Awaitable[None]]
"""Delivers one message, or raises an error of the port that it calls."""

PATIENCE = timedelta(days=3)
"""How long a message is retried before it is parked for an operator."""
OWN_TOPICS = (Topic.NOTIFY, Topic.EVENT)
"""Messages that the process which wrote them delivers right after its commit."""
DESTINATIONS = {
    "notifications": (Topic.NOTIFY,),
    "events": (Topic.EVENT,),
    "credits": (Topic.CAPTURE, Topic.RELEASE),
    "dead_letters": (DEAD_LETTER,),
}
"""The topics that one receiver takes."""
_EVENTS = {
    DEAD_LETTER: "dead_letter_handled",
    Topic.NOTIFY: "notification_sent",
    Topic.EVENT: "event_published",
    Topic.CAPTURE: "credits_captured",
    Topic.RELEASE: "credits_released",
}
"""The timeline's entry for a delivered message."""


class Relay:
    """Delivers the messages of one destination; any number may run.

    A message is leased to one relay, and only the token of the lease may write its outcome. Each
    message is delivered by a task of its own, so that a slow one delays no other while there is
    room.
    """

    def __init__(
        self,
        outbox: Outbox,
        writer: BatchWriter,
        handlers: Mapping[str, Handler],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        room: int = 100,
        lease_seconds: float = 60.0,
        message_seconds: float = 30.0,
        own_seconds: float = 10.0,
    ) -> None:
        """`room`: messages being delivered at once; `own_seconds` is well below `OWN_LEASE`, so
        that a message is tried by one process at a time.
        """
        self._outbox = outbox
        self._writer = writer
        self._handlers = handlers
        self._now = now
        self._new_id = new_id
        self._room = room
        self._lease = timedelta(seconds=lease_seconds)
        self._message_seconds = message_seconds
        self._own_seconds = own_seconds
        self._running: set[asyncio.Task[None]] = set()
        self.on_room: Callable[[], None] = lambda: None
        """Called when a message was delivered while there was no room for further ones."""

    @property
    def topics(self) -> Collection[str]:
        """The topics of this destination."""
        return self._handlers.keys()

    async def step(self) -> int:
        """Lease as many due messages as there is room for, and begin to deliver them; return their
        number.
        """
        room = self._room - len(self._running)
        if room <= 0:
            return 0
        messages = await self._outbox.lease(
            self._new_id(),
            most=room,
            now=self._now(),
            lease_for=self._lease,
            topics=list(self._handlers),
        )
        for message in messages:
            self._begin(message, self._message_seconds)
        return len(messages)

    def deliver_own(self, message: LeasedMessage) -> None:
        """Begin to deliver a message that was born leased to this process.

        Without room it is left to a step, when its lease has ended.
        """
        if len(self._running) < self._room:
            self._begin(message, self._own_seconds)

    async def finish(self) -> None:
        """Wait until the messages being delivered have their outcome, for a bounded time."""
        while self._running:
            done, _ = await asyncio.wait(self._running, timeout=self._message_seconds)
            if not done:
                return

    def _begin(self, message: LeasedMessage, seconds: float) -> None:
        task = asyncio.create_task(self._deliver(message, seconds))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        was_full = len(self._running) >= self._room
        self._running.discard(task)
        if was_full:
            self.on_room()

    async def _deliver(self, message: LeasedMessage, seconds: float) -> None:
        try:
            outcome = await self._pay(message, seconds)
            if isinstance(outcome, Delivered):
                event = _EVENTS[message.topic]
                delivered = DeliveredMessage(message=message, event=event, at=self._now())
                await self._writer.delete(delivered)
            else:
                await self._outbox.settle(message, outcome, now=self._now())
        except ServiceUnavailableError as error:
            # Its lease ends, and a relay delivers it once more.
            log.warning("message_unsettled", topic=message.topic, reason=error.code)
        except Exception:
            log.exception("message_unsettled", topic=message.topic, message=message.id)

    async def _pay(self, message: LeasedMessage, seconds: float) -> Outcome:
        try:
            async with asyncio.timeout(seconds):
                await self._handlers[message.topic](message.body)
        except (NotifierRefusedError, CreditsConflictError, CreditsUndecidableError) as error:
            log.error("message_parked", topic=message.topic, message=message.id, reason=str(error))  # noqa: TRY400 - no fault of ours
            return Parked(str(error) or type(error).__name__)
        except NotifierUnavailableError as error:
            return self._later(message, str(error), error.retry_after)
        except (CreditsUnknownError, TimeoutError) as error:
            return self._later(message, str(error) or "no answer in time")
        except Exception as error:
            log.exception("message_failed", topic=message.topic, message=message.id)
            return self._later(message, type(error).__name__)
        return Delivered()

    def _later(
        self, message: LeasedMessage, reason: str, delay: timedelta | None = None
    ) -> Outcome:
        if self._now() - message.created_at > PATIENCE:
            log.error("message_parked", topic=message.topic, message=message.id, reason=reason)
            return Parked(f"given up after {message.attempts} tries: {reason}")
        return RetryLater(reason, delay)


class Relays:
    """One relay for each destination, so that none waits for another."""

    def __init__(self, writer: BatchWriter, relays: Mapping[str, Relay]) -> None:
        self._writer = writer
        self.by_destination = relays
        self._own_topics: Collection[str] = ()

    def start_own(self) -> None:
        """Deliver the messages that this process writes right after their commit."""
        relays = {
            topic: relay
            for relay in self.by_destination.values()
            for topic in relay.topics
            if topic in OWN_TOPICS
        }
        self._own_topics = relays.keys()
        self._writer.deliver_own(
            self._own_topics, lambda message: relays[message.topic].deliver_own(message)
        )

    async def stop(self) -> None:
        """Leave new messages to other relays, and finish those being delivered."""
        self._own_topics = ()
        self._writer.deliver_no_more()
        await self.finish()

    async def step(self) -> int:
        """Deliver one batch for each destination and wait for the outcomes; return the number of
        messages.
        """
        count = sum([await relay.step() for relay in self.by_destination.values()])
        await self.finish()
        return count

    async def finish(self) -> None:
        """Wait until the messages being delivered have their outcome, for a bounded time."""
        await asyncio.gather(*(relay.finish() for relay in self.by_destination.values()))

    def wanted_for(self, change: StateChange) -> list[str]:
        """Return the destinations that a step must serve, because the messages of a committed
        change are not delivered by this process anyway.
        """
        topics = {message.topic for message in change.messages}.difference(self._own_topics)
        return [
            name
            for name, relay in self.by_destination.items()
            if not topics.isdisjoint(relay.topics)
        ]


def build_relays(
    outbox: Outbox,
    writer: BatchWriter,
    handlers: Mapping[str, Handler],
    *,
    now: Callable[[], datetime],
    new_id: Callable[[], UUID],
) -> Relays:
    """Build a relay for each destination that has a handler."""
    relays = {}
    for name, topics in DESTINATIONS.items():
        of_destination = {topic: handlers[topic] for topic in topics if topic in handlers}
        if of_destination:
            relays[name] = Relay(outbox, writer, of_destination, now=now, new_id=new_id)
    return Relays(writer, relays)
