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
LISTENERS_MAX = 10_000
LISTENERS_PER_USER_MAX = 100
"""So that nobody takes all the room there is."""
_DIGITS_MAX = 9
"""Of an event's id: no request has so many versions."""


class Subscription:
    """One open stream: the newest state it has not sent yet."""

    def __init__(self, request: GenerationRequest) -> None:
        """Begins with what comes after this state."""
        self.request_id, self.user_id, self.version = request.id, request.user_id, request.version
        self._newest: GenerationRequest | None = None
        self._changed = asyncio.Event()

    def offer(self, request: GenerationRequest) -> None:
        """A newer state; what was not sent yet is replaced, so a slow reader costs nothing."""
        if request.version > self.version:
            self.version, self._newest = request.version, request
            self._changed.set()

    async def next(self, timeout_seconds: float) -> GenerationRequest | None:
        """The newest unsent state, or None when nothing happened for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._changed.clear()
        found, self._newest = self._newest, None
        return found


class UpdateBroadcaster:
    """Knows who listens to what. Writes of this process arrive at once, those of others by one poll
    for all.
    """

    def __init__(self, queries: Queries, *, poll_seconds: float = 0.25) -> None:
        self._queries = queries
        self._poll_seconds = poll_seconds
        self._listeners: dict[UUID, set[Subscription]] = {}
        self._count = 0
        self._of_user: Counter[str] = Counter()
        self._task = SupervisedTask("stream-poll", self._poll, may_return=True)

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self._count

    def written(self, change: StateChange) -> None:
        """A change of this process has been committed."""
        for listener in self._listeners.get(change.after.id, ()):
            listener.offer(change.after)

    def check_room(self, user_id: str) -> None:
        """Whether another stream of this user's requests may be opened.

        Raises:
            RateLimitedError: the user has too many. ServiceUnavailableError: too many are open in
            this process.
        """
        if self._of_user[user_id] >= LISTENERS_PER_USER_MAX:
            raise errors.RateLimitedError(retry_after_seconds=10)
        if self._count >= LISTENERS_MAX:
            raise errors.ServiceUnavailableError(retry_after_seconds=10)

    def listen(self, request: GenerationRequest) -> Subscription:
        """Begin to listen for what comes after this state."""
        listener = Subscription(request)
        self._listeners.setdefault(request.id, set()).add(listener)
        self._count += 1
        self._of_user[request.user_id] += 1
        self._task.start()
        return listener

    def leave(self, listener: Subscription) -> None:
        """Stop listening."""
        group = self._listeners.get(listener.request_id, set())
        group.discard(listener)
        if not group:
            self._listeners.pop(listener.request_id, None)
        self._count -= 1
        self._of_user[listener.user_id] -= 1
        if not self._of_user[listener.user_id]:
            del self._of_user[listener.user_id]

    async def close(self) -> None:
        """Stop polling."""
        await self._task.stop()

    async def _poll(self) -> None:
        while self._listeners:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except errors.ServiceUnavailableError as error:
                log.warning("stream_waits", reason=error.code)
            except Exception:
                log.exception("stream_poll_failed")

    async def _look(self) -> None:
        versions = await self._queries.versions(list(self._listeners))
        stale = [
            request_id
            for request_id, version in versions.items()
            if any(listener.version < version for listener in self._listeners.get(request_id, ()))
        ]
        if stale:
            for request in await self._queries.requests(stale):
                for listener in self._listeners.get(request.id, ()):
                    listener.offer(request)


def version_of(event_id: str | None) -> int:
    """The version that an event's id stands for; 0 where it is none of ours, as before the first
    event.
    """
    if event_id and event_id.isascii() and event_id.isdigit() and len(event_id) <= _DIGITS_MAX:
        return int(event_id)
    return 0


async def updates(
    hub: UpdateBroadcaster,
    found: GenerationRequest,
    *,
    say: Callable[[GenerationRequest], bytes],
    send_first: bool,
) -> AsyncIterator[bytes]:
    """A stream of what `say` makes of each newer state, until the request has ended.

    Listens only once the answer has begun, so that a caller who has gone leaves nothing behind.
    """
    listener = hub.listen(found)
    ended = found.terminal
    try:
        yield b"retry: 2000\n\n"
        if send_first:
            yield say(found)
        while not ended:
            newer = await listener.next(HEARTBEAT_SECONDS)
            if newer is None:
                yield b": still here\n\n"
                continue
            yield say(newer)
            ended = newer.terminal
    finally:
        hub.leave(listener)
