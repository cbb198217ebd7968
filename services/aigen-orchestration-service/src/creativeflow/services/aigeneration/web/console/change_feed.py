"""The change feed of the console: one poll per process signals all viewers that data changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import structlog

from creativeflow.services.aigeneration.api.live_updates import HEARTBEAT_SECONDS
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.supervision import SupervisedTask

log = structlog.get_logger(__name__)

SUBSCRIBERS_MAX = 200
POLL_SECONDS = 2.0


class ChangeFeed:
    """Poll a change marker while anyone is subscribed and signal subscribers when it moves."""

    def __init__(
        self, read_marker: Callable[[], Awaitable[object]], *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._read_marker = read_marker
        self._poll_seconds = poll_seconds
        self._subscribers: set[asyncio.Event] = set()
        self._task = SupervisedTask("console-change-feed", self._poll, may_return=True)

    @property
    def subscriber_count(self) -> int:
        """Number of open subscriptions."""
        return len(self._subscribers)

    def check_capacity(self) -> None:
        """Check that another subscriber is allowed.

        Raises:
            ServiceUnavailableError: `SUBSCRIBERS_MAX` is reached; pages then poll less often.
        """
        if len(self._subscribers) >= SUBSCRIBERS_MAX:
            raise errors.ServiceUnavailableError(retry_after_seconds=30)

    async def subscribe(self) -> AsyncIterator[bytes]:
        """Yield `changed` events for `live.js`, at most one per poll, and heartbeats."""
        changed = asyncio.Event()
        self._subscribers.add(changed)
        self._task.start()
        try:
            yield b"retry: 5000\n\n"
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
                yield b"event: changed\ndata: -\n\n" if changed.is_set() else b": heartbeat\n\n"
                changed.clear()
        finally:
            self._subscribers.discard(changed)

    async def close(self) -> None:
        """Stop polling."""
        await self._task.stop()

    async def _poll(self) -> None:
        known: object = None
        while self._subscribers:
            try:
                marker = await self._read_marker()
            except errors.ServiceUnavailableError as error:
                log.warning("stream_waits", reason=error.code)
            except Exception:
                log.exception("stream_poll_failed")
            else:
                if known is not None and marker != known:
                    for subscriber in self._subscribers:
                        subscriber.set()
                known = marker
            await asyncio.sleep(self._poll_seconds)
