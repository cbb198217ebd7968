"""What pages about many requests listen to: that something has happened, by one look for all
viewers of a process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import structlog

from creativeflow.services.aigeneration.api.live_updates import HEARTBEAT_SECONDS
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.supervision import SupervisedTask

log = structlog.get_logger(__name__)

VIEWERS_MAX = 200
LOOK_SECONDS = 2.0


class ChangeFeed:
    """Looks at the mark while somebody views, and tells all of them when it differs: never what,
    only that.
    """

    def __init__(
        self, mark: Callable[[], Awaitable[object]], *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._mark = mark
        self._look_seconds = look_seconds
        self._viewers: set[asyncio.Event] = set()
        self._task = SupervisedTask("console-pulse", self._watch, may_return=True)

    @property
    def count(self) -> int:
        """How many view."""
        return len(self._viewers)

    def check_room(self) -> None:
        """Whether another viewer may come.

        Raises:
            ServiceUnavailableError: too many are here; their pages look again by themselves, more
            seldom.
        """
        if len(self._viewers) >= VIEWERS_MAX:
            raise errors.ServiceUnavailableError(retry_after_seconds=30)

    async def beats(self) -> AsyncIterator[bytes]:
        """A stream of `changed` events for `live.js`, at most one in each look, and a heartbeat in
        between.
        """
        happened = asyncio.Event()
        self._viewers.add(happened)
        self._task.start()
        try:
            yield b"retry: 5000\n\n"
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(happened.wait(), HEARTBEAT_SECONDS)
                yield b"event: changed\ndata: -\n\n" if happened.is_set() else b": still here\n\n"
                happened.clear()
        finally:
            self._viewers.discard(happened)

    async def close(self) -> None:
        """Stop looking."""
        await self._task.stop()

    async def _watch(self) -> None:
        known: object = None
        while self._viewers:
            try:
                mark = await self._mark()
            except errors.ServiceUnavailableError as error:
                log.warning("stream_waits", reason=error.code)
            except Exception:
                log.exception("stream_poll_failed")
            else:
                if known is not None and mark != known:
                    for viewer in self._viewers:
                        viewer.set()
                known = mark
            await asyncio.sleep(self._look_seconds)
