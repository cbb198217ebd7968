"""Entitlements remembered for a short time, in front of any credit service (REQ-016: at most 30 seconds old)."""

import time
from collections import OrderedDict

from creativeflow.services.aigeneration.ports import Credits, Entitlements

ENTRIES_MAX = 50_000


class CachedEntitlements:
    """Remembers what each user may do for `seconds`; bounded, the longest unused go first."""

    def __init__(self, credits_: Credits, *, seconds: float = 30.0) -> None:
        self._credits = credits_
        self._seconds = seconds
        self._known: OrderedDict[str, tuple[float, Entitlements]] = OrderedDict()

    async def __call__(self, user_id: str) -> Entitlements:
        """What the user may do; raises CreditsUnknownError as the credit service does."""
        known = self._known.get(user_id)
        if known and time.monotonic() < known[0]:
            return known[1]
        entitled = await self._credits.entitlements(user_id)
        self._known[user_id] = (time.monotonic() + self._seconds, entitled)
        self._known.move_to_end(user_id)
        if len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)
        return entitled

    def forget(self, user_id: str) -> None:
        """Ask anew next time, because the account has just been changed."""
        self._known.pop(user_id, None)
