"""Webhook sender: deliver signed events at least once, per endpoint."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.application.metrics import WEBHOOK_DELIVERIES
from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.domain.webhooks import (
    JITTER,
    Attempt,
    Delivered,
    Disable,
    Exhausted,
    RetryLater,
    classify_attempt,
)
from creativeflow.services.aigeneration.kit.signing import webhook_headers
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore, DueDelivery
from creativeflow.services.aigeneration.storage.webhook_endpoints import WebhookEndpointStore

log = structlog.get_logger(__name__)

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Attempt]]
"""Makes one attempt at a URL; never raises for errors of the receiver or the network."""


class WebhookSender:
    """Delivers webhooks; any number may run.

    A delivery is leased to one sender, and only the holder of the lease's token may write its
    outcome. Deliveries run concurrently; a step takes only as many as there are free slots, so that
    none waits for the slowest.
    """

    def __init__(
        self,
        deliveries: DeliveryStore,
        endpoints: WebhookEndpointStore,
        post: Post,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        timeout_seconds: float,
        on_room: Callable[[], None] = lambda: None,
        at_once: int = 128,
        per_endpoint: int = 8,
    ) -> None:
        self._deliveries = deliveries
        self._endpoints = endpoints
        self._post = post
        self._now = now
        self._new_id = new_id
        self._lease = timedelta(seconds=2 * timeout_seconds + 30)
        self._on_room = on_room
        self._at_once = at_once
        self._per_endpoint = per_endpoint
        self._busy: Counter[UUID] = Counter()
        self._running: set[asyncio.Task[None]] = set()
        self.owners: frozenset[str] = frozenset()
        """Owners of endpoints at the last step; changes of their requests wake the sender."""
        self._idle = True

    async def step(self) -> int:
        """Lease due deliveries for the free slots and start them; return how many."""
        room = self._at_once - len(self._running)
        if room <= 0:
            return 0
        # Read before the messages: later messages wake this sender, earlier ones are found.
        if self._idle:
            self.owners = await self._endpoints.owners()
        taken = await self._deliveries.lease(
            self._new_id(),
            most=room,
            per_endpoint=self._per_endpoint,
            busy=self._busy,
            now=self._now(),
            lease_for=self._lease,
        )
        self._idle = not taken
        for due in taken:
            self._busy[due.endpoint_id] += 1
            task = asyncio.create_task(self._deliver(due), name="webhook")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return len(taken)

    async def finish(self, timeout_seconds: float | None = None) -> None:
        """Wait for running deliveries; cancel those that take longer, to be retried when their
        lease ends.
        """
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_seconds)
            for task in late:
                task.cancel()

    async def _deliver(self, due: DueDelivery) -> None:
        try:
            sent_at, body = self._now(), due.body.encode()
            headers = webhook_headers(
                due.secrets, str(due.event_id), int(sent_at.timestamp()), body
            )
            await self._settle(due, await self._post(due.url, headers, body))
        except ServiceUnavailableError as error:
            log.warning(
                "webhook_unsettled",
                endpoint=str(due.endpoint_id),
                event_id=str(due.event_id),
                reason=error.code,
            )
        except Exception:
            log.exception(
                "webhook_failed", endpoint=str(due.endpoint_id), event_id=str(due.event_id)
            )
        finally:
            self._busy[due.endpoint_id] -= 1
            if not self._busy[due.endpoint_id]:
                del self._busy[due.endpoint_id]
            self._on_room()

    async def _settle(self, due: DueDelivery, attempt: Attempt) -> None:
        now = self._now()
        jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nothing secret
        decision = classify_attempt(
            attempt, tries=due.tries, failing_since=due.failing_since, now=now, jitter=jitter
        )
        match decision:
            case Delivered():
                written, outcome = await self._deliveries.delivered(due, attempt, now), "delivered"
            case RetryLater(delay):
                written, outcome = (
                    await self._deliveries.put_off(due, attempt, now, delay),
                    "put_off",
                )
            case Exhausted(reason):
                written, outcome = await self._deliveries.park(due, attempt, now, reason), "parked"
            case Disable(why):
                written, outcome = await self._deliveries.fail(due, attempt, now), "failed"
                if written:
                    given_up = await self._endpoints.disable(due.endpoint_id, why, now)
                    log.warning(
                        "webhook_endpoint_disabled",
                        endpoint=str(due.endpoint_id),
                        reason=why,
                        given_up=given_up,
                    )
        if written:
            WEBHOOK_DELIVERIES.labels(outcome).inc()
            if outcome == "parked":
                log.error(
                    "message_parked",
                    topic="webhook",
                    message=due.message_id,
                    reason=attempt.trouble,
                )
