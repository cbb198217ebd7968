"""Cache of entitlements in front of any credit service.

Entries are used for 30 seconds; while the credit service does not answer, for up to five minutes,
marked as stale (REQ-016).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from creativeflow.services.aigeneration.ports import Credits, CreditsUnknownError, Entitlements

log = structlog.get_logger(__name__)

ENTRIES_MAX = 50_000
FRESH_SECONDS = 30.0
STALE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Known:
    entitled: Entitlements
    asked_at: float
    """The time of the call, not of its response, because a response is as old as its call."""


class CachedEntitlements:
    """Bounded cache of entitlements by user; the least recently used are evicted."""

    def __init__(
        self,
        credits_: Credits,
        *,
        flagged: Callable[[str], Awaitable[bool]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credits = credits_
        self._flagged = flagged
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def __call__(self, user_id: str) -> Entitlements:
        """Return the entitlements of a user; an account flagged here is always restricted.

        Raises:
            CreditsUnknownError: the credit service does not answer, and no recent entry is
            cached.
        """
        known, now = self._known.get(user_id), self._monotonic()
        if known and now - known.asked_at < FRESH_SECONDS:
            return known.entitled
        answer, flagged = await asyncio.gather(
            self._credits.entitlements(user_id), self._flagged(user_id), return_exceptions=True
        )
        if (
            isinstance(answer, CreditsUnknownError)
            and known is not None
            and now - known.asked_at <= STALE_SECONDS
        ):
            log.warning(
                "entitlements_stale", seconds=round(now - known.asked_at), reason=str(answer)
            )
            return replace(known.entitled, stale=True)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(flagged, BaseException):
            raise flagged
        entitled = answer
        if flagged:
            entitled = replace(entitled, restricted=True)
        self._known[user_id] = _Known(entitled, now)
        self._known.move_to_end(user_id)
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return entitled

    def forget(self, user_id: str) -> None:
        """Drop the entry of an account that has just been changed."""
        self._known.pop(user_id, None)
