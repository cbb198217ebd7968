"""Bounds on callers: state-changing calls per minute, with the standard's headers."""

import time
from collections import OrderedDict

from fastapi import Request

from creativeflow.services.aigeneration.domain.errors import RateLimitedError

_CALLERS_MAX = 50_000
_WINDOW_SECONDS = 60


class Limiter:
    """A fixed window of one minute per caller, in this process; 0 allows any number."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def check(self, request: Request, caller: str) -> None:
        """Count one call.

        Raises:
            RateLimitedError: it is one too many; says when the next window begins.
        """
        if not self._per_minute or request.method in {"GET", "HEAD", "OPTIONS"}:
            return
        now = int(time.monotonic())
        window, remaining_seconds = now // _WINDOW_SECONDS, _WINDOW_SECONDS - now % _WINDOW_SECONDS
        known, count = self._counts.pop(caller, (window, 0))
        count = count + 1 if known == window else 1
        self._counts[caller] = (window, count)
        if len(self._counts) > _CALLERS_MAX:
            self._counts.popitem(last=False)
        left = max(0, self._per_minute - count)
        request.scope["aigen.rate_limit"] = (
            f'"default";q={self._per_minute};w={_WINDOW_SECONDS}',
            f'"default";r={left};t={remaining_seconds}',
        )
        if count > self._per_minute:
            raise RateLimitedError(retry_after_seconds=remaining_seconds)
