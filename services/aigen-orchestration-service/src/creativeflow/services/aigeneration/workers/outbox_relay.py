"""Outbox relay: deliver notifications, events, captures and releases, each at least once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
_OWN_MAX = 500
"""Messages of its own that a process delivers at once; further ones are left to the relay's steps.
"""
_EVENTS = {
    DEAD_LETTER: "dead_letter_handled",
    Topic.NOTIFY: "notification_sent",
    Topic.EVENT: "event_published",
    Topic.CAPTURE: "credits_captured",
    Topic.RELEASE: "credits_released",
}
"""The timeline's entry for a delivered message."""


class Relay:
    """Delivers outbox messages; any number may run.

    A message is leased to one relay, and only the token of the lease may write its outcome. New
    messages of this process are born leased to it and delivered without a step; see `start_own`.
    """

    def __init__(
        self,
        outbox: Outbox,
        writer: BatchWriter,
        handlers: Mapping[str, Handler],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        batch: int = 100,
        lease_seconds: float = 60.0,
        message_seconds: float = 30.0,
        own_seconds: float = 10.0,
    ) -> None:
        self._outbox = outbox
        self._writer = writer
        self._own_topics: set[str] = set()
        self._own: set[asyncio.Task[None]] = set()
        self._handlers = handlers
        self._now = now
        self._new_id = new_id
        self._batch = batch
        self._lease = timedelta(seconds=lease_seconds)
        self._message_seconds = message_seconds
        self._own_seconds = own_seconds
        """Well below `OWN_LEASE`: a message is tried by one process at a time."""

    def start_own(self) -> None:
        """Deliver the messages that this process writes right after their commit."""
        self._own_topics = {topic for topic in OWN_TOPICS if topic in self._handlers}
        self._writer.deliver_own(self._own_topics, self._deliver_own)

    async def stop_own(self) -> None:
        """Leave new messages to the relays' steps, and finish those being delivered."""
        self._own_topics = set()
        self._writer.deliver_no_more()
        await self.finish_own()

    async def finish_own(self) -> None:
        """Wait until the messages of this process that are being delivered have their outcome."""
        while self._own:
            done, _ = await asyncio.wait(self._own, timeout=self._own_seconds)
            if not done:
                return

    def wanted_for(self, change: StateChange) -> bool:
        """Return whether a committed change has messages that only a step delivers."""
        topics = {message.topic for message in change.messages} - {Topic.WEBHOOK}
        return not topics <= self._own_topics

    def _deliver_own(self, message: LeasedMessage) -> None:
        if len(self._own) < _OWN_MAX:
            task = asyncio.create_task(self._deliver_one(message))
            self._own.add(task)
            task.add_done_callback(self._own.discard)

    async def _deliver_one(self, message: LeasedMessage) -> None:
        try:
            outcome = await self._pay(message, self._own_seconds)
            await self._settle([(message, outcome)])
        except ServiceUnavailableError as error:
            # Its lease ends, and a relay delivers it once more.
            log.warning("message_unsettled", topic=message.topic, reason=error.code)
        except Exception:
            log.exception("message_failed", topic=message.topic, message=message.id)

    async def _settle(self, outcomes: Sequence[tuple[LeasedMessage, Outcome]]) -> None:
        now = self._now()
        await asyncio.gather(
            *(
                self._writer.delete(
                    DeliveredMessage(message=message, event=_EVENTS[message.topic], at=now)
                )
                for message, outcome in outcomes
                if isinstance(outcome, Delivered)
            )
        )
        left = [(m, outcome) for m, outcome in outcomes if not isinstance(outcome, Delivered)]
        if left:
            await self._outbox.settle(left, now=now)

    async def step(self) -> int:
        """Deliver one batch; return the number of messages tried."""
        messages = await self._outbox.lease(
            self._new_id(),
            most=self._batch,
            now=self._now(),
            lease_for=self._lease,
            topics=list(self._handlers),
        )
        if messages:
            outcomes = await asyncio.gather(
                *(self._pay(message, self._message_seconds) for message in messages)
            )
            await self._settle(list(zip(messages, outcomes, strict=True)))
        return len(messages)

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
