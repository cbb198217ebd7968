"""What users may do, remembered in front of any credit service for a short time, and longer while
it is away.

At most 30 seconds old; while the credit service does not answer, up to five minutes, and marked as
stale (REQ-016).
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
    """When the question was asked, not when the answer came: an answer is as old as its question.
    """


class CachedEntitlements:
    """Remembers what each user may do; bounded, the longest unused go first."""

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
        """What the user may do; an account that is flagged here is restricted, whatever the credit
        service says.

        Raises:
            CreditsUnknownError: the credit service does not answer, and nothing recent enough is
            remembered.
        """
        known, now = self._known.get(user_id), self._monotonic()
        if known and now - known.asked_at < FRESH_SECONDS:
            return known.entitled
        said, flagged = await asyncio.gather(
            self._credits.entitlements(user_id), self._flagged(user_id), return_exceptions=True
        )
        if (
            isinstance(said, CreditsUnknownError)
            and known is not None
            and now - known.asked_at <= STALE_SECONDS
        ):
            log.warning("entitlements_stale", seconds=round(now - known.asked_at), reason=str(said))
            return replace(known.entitled, stale=True)
        if isinstance(said, BaseException):
            raise said
        if isinstance(flagged, BaseException):
            raise flagged
        entitled = said
        if flagged:
            entitled = replace(entitled, restricted=True)
        self._known[user_id] = _Known(entitled, now)
        self._known.move_to_end(user_id)
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return entitled

    def forget(self, user_id: str) -> None:
        """Ask anew next time, because the account has just been changed."""
        self._known.pop(user_id, None)
