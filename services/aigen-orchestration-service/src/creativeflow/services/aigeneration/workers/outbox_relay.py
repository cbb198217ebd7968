"""Outbox relay: deliver notifications, events, captures and releases, each at least once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsUndecidableError,
    CreditsUnknownError,
    NotifierRefusedError,
    NotifierUnavailableError,
)
from creativeflow.services.aigeneration.storage.outbox import (
    Delivered,
    LeasedMessage,
    Outbox,
    Outcome,
    Parked,
    RetryLater,
)

log = structlog.get_logger(__name__)

Handler = Callable[[dict[str, Any]], Awaitable[None]]
"""Delivers one message, or raises an error of the port that it calls."""

PATIENCE = timedelta(days=3)
"""How long a message is retried before it is parked for an operator."""


class Relay:
    """Delivers outbox messages; any number may run.

    A message is leased to one relay, and only the token of the lease may write its outcome.
    """

    def __init__(
        self,
        outbox: Outbox,
        handlers: Mapping[str, Handler],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        batch: int = 100,
        lease_seconds: float = 60.0,
        message_seconds: float = 30.0,
    ) -> None:
        self._outbox = outbox
        self._handlers = handlers
        self._now = now
        self._new_id = new_id
        self._batch = batch
        self._lease = timedelta(seconds=lease_seconds)
        self._message_seconds = message_seconds

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
            outcomes = await asyncio.gather(*(self._pay(message) for message in messages))
            await self._outbox.settle(list(zip(messages, outcomes, strict=True)), now=self._now())
        return len(messages)

    async def _pay(self, message: LeasedMessage) -> Outcome:
        try:
            async with asyncio.timeout(self._message_seconds):
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
