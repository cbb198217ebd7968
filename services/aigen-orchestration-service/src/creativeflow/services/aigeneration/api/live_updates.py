"""Live updates of requests: one poll per process for all subscribers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import StateChange
from creativeflow.services.aigeneration.kit.supervision import SupervisedTask
from creativeflow.services.aigeneration.storage.queries import Queries

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15.0
SUBSCRIPTIONS_MAX = 10_000
SUBSCRIPTIONS_PER_USER_MAX = 100
"""Keeps one user from exhausting the subscriptions of the process."""
_DIGITS_MAX = 9
"""Maximum digits of an event id; no request reaches a longer version."""


class Subscription:
    """One open stream, holding the newest state that has not been sent; `request` is the state
    already known to the client.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request_id, self.user_id, self.version = request.id, request.user_id, request.version
        self._newest: GenerationRequest | None = None
        self._changed = asyncio.Event()

    def offer(self, request: GenerationRequest) -> None:
        """Replace the unsent state if this one is newer; a slow reader skips states."""
        if request.version > self.version:
            self.version, self._newest = request.version, request
            self._changed.set()

    async def next(self, timeout_seconds: float) -> GenerationRequest | None:
        """Wait for the newest unsent state; None after the timeout."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._changed.clear()
        found, self._newest = self._newest, None
        return found


class UpdateBroadcaster:
    """Distributes state changes to subscriptions: those of this process at once, those of other
    processes through one poll for all subscribers.
    """

    def __init__(self, queries: Queries, *, poll_seconds: float = 0.25) -> None:
        self._queries = queries
        self._poll_seconds = poll_seconds
        self._subscriptions: dict[UUID, set[Subscription]] = {}
        self._count = 0
        self._of_user: Counter[str] = Counter()
        self._task = SupervisedTask("stream-poll", self._poll, may_return=True)

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._count

    def publish(self, change: StateChange) -> None:
        """Send a committed change to the subscribers of its request."""
        for subscription in self._subscriptions.get(change.after.id, ()):
            subscription.offer(change.after)

    def check_limits(self, user_id: str) -> None:
        """Check that another stream for a request of this user may be opened.

        Raises:
            RateLimitedError: the user has too many open streams.
            ServiceUnavailableError: this process has too many open streams.
        """
        if self._of_user[user_id] >= SUBSCRIPTIONS_PER_USER_MAX:
            raise errors.RateLimitedError(retry_after_seconds=10)
        if self._count >= SUBSCRIPTIONS_MAX:
            raise errors.ServiceUnavailableError(retry_after_seconds=10)

    def subscribe(self, request: GenerationRequest) -> Subscription:
        """Return a subscription to the states after this one."""
        subscription = Subscription(request)
        self._subscriptions.setdefault(request.id, set()).add(subscription)
        self._count += 1
        self._of_user[request.user_id] += 1
        self._task.start()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription."""
        group = self._subscriptions.get(subscription.request_id, set())
        group.discard(subscription)
        if not group:
            self._subscriptions.pop(subscription.request_id, None)
        self._count -= 1
        self._of_user[subscription.user_id] -= 1
        if not self._of_user[subscription.user_id]:
            del self._of_user[subscription.user_id]

    async def close(self) -> None:
        """Stop polling."""
        await self._task.stop()

    async def _poll(self) -> None:
        while self._subscriptions:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except errors.ServiceUnavailableError as error:
                log.warning("stream_waits", reason=error.code)
            except Exception:
                log.exception("stream_poll_failed")

    async def _look(self) -> None:
        versions = await self._queries.versions(list(self._subscriptions))
        stale = [
            request_id
            for request_id, version in versions.items()
            if any(
                subscription.version < version
                for subscription in self._subscriptions.get(request_id, ())
            )
        ]
        if stale:
            for request in await self._queries.requests(stale):
                for subscription in self._subscriptions.get(request.id, ()):
                    subscription.offer(request)


def parse_event_id(event_id: str | None) -> int:
    """Parse `Last-Event-ID` into a version; 0 if it is missing or invalid."""
    if event_id and event_id.isascii() and event_id.isdigit() and len(event_id) <= _DIGITS_MAX:
        return int(event_id)
    return 0


async def stream_updates(
    broadcaster: UpdateBroadcaster,
    found: GenerationRequest,
    *,
    encode: Callable[[GenerationRequest], bytes],
    send_first: bool,
    count_seconds_left: Callable[[], float] | None = None,
) -> AsyncIterator[bytes]:
    """Yield each newer state as encoded by `encode`, with heartbeats, until the request ends or no
    seconds are left.

    Subscribes only at the first iteration, so that a client that disconnects before the response
    starts leaves no subscription behind.
    """
    subscription = broadcaster.subscribe(found)
    ended = found.terminal
    try:
        yield b"retry: 2000\n\n"
        if send_first:
            yield encode(found)
        while not ended:
            left = count_seconds_left() if count_seconds_left else HEARTBEAT_SECONDS
            if left <= 0:
                return
            newer = await subscription.next(min(left, HEARTBEAT_SECONDS))
            if newer is None:
                yield b": still here\n\n"
                continue
            yield encode(newer)
            ended = newer.terminal
    finally:
        broadcaster.unsubscribe(subscription)
