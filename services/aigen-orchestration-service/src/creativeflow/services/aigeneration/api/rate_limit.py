"""Bounds on callers: state-changing calls per minute, with the standard's headers, wrong
credentials per address, and the time a body may take.
"""

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections import OrderedDict
from functools import lru_cache

from fastapi import Request

from creativeflow.services.aigeneration.application.metrics import AUTHENTICATION_FAILURES
from creativeflow.services.aigeneration.domain.errors import RateLimitedError

CALLERS_MAX = 50_000
_WINDOW_SECONDS = 60
_IPV6_PREFIX = 64
"""Whoever has one IPv6 address has the network of this length around it."""


class _Windows:
    """Counts per name in a fixed window of one minute; bounded, the longest unused go first."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def add(self, name: str) -> int:
        """Count one, and return how many there were in this window."""
        window = int(time.monotonic()) // _WINDOW_SECONDS
        known, count = self._counts.pop(name, (window, 0))
        count = count + 1 if known == window else 1
        self._counts[name] = (window, count)
        if len(self._counts) > CALLERS_MAX:
            self._counts.popitem(last=False)
        return count

    def current(self, name: str) -> int:
        """Return how many there were in this window."""
        window, count = self._counts.get(name, (-1, 0))
        return count if window == int(time.monotonic()) // _WINDOW_SECONDS else 0

    @staticmethod
    def remaining_seconds() -> int:
        """Return the time until the next window."""
        return _WINDOW_SECONDS - int(time.monotonic()) % _WINDOW_SECONDS


class RateLimiter:
    """State-changing calls per minute in this process, per caller and per API key; 0 allows any
    number.
    """

    def __init__(self, per_minute: int, *, per_key: int = 0) -> None:
        self._limits = {"default": per_minute, "key": per_key}
        self._windows = _Windows()

    def check(self, request: Request, caller: str, *, api_key: str | None = None) -> None:
        """Count one call for its caller, and for its API key, if any, whatever user it names.

        Raises:
            RateLimitedError: the limit is exceeded; the error says when the next window begins.
        """
        if request.method in {"GET", "HEAD", "OPTIONS"}:
            return
        names = {"default": caller, "key": api_key and f"key:{api_key}"}
        counted = {
            policy: self._windows.add(f"{policy}/{name}")
            for policy, name in names.items()
            if name and self._limits[policy]
        }
        if not counted:
            return
        seconds = self._windows.remaining_seconds()
        request.scope["aigen.rate_limit"] = (
            ", ".join(f'"{name}";q={self._limits[name]};w={_WINDOW_SECONDS}' for name in counted),
            ", ".join(
                f'"{name}";r={max(0, self._limits[name] - count)};t={seconds}'
                for name, count in counted.items()
            ),
        )
        if any(count > self._limits[name] for name, count in counted.items()):
            raise RateLimitedError(retry_after_seconds=seconds)


class LockOut:
    """Locks addresses out for the rest of a minute after too many wrong credentials; 0 allows any
    number.

    Credentials that were accepted before are still checked: wrong ones behind the same address,
    such as that of a gateway, do not lock them out.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._windows = _Windows()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def check(self, address: str, credential: str) -> None:
        """Refuse to look at a credential from an address that is locked out.

        Raises:
            RateLimitedError: it is; says when the lock-out ends.
        """
        if (
            self._per_minute
            and self._windows.current(_network(address)) >= self._per_minute
            and self._digest(credential) not in self._accepted
        ):
            AUTHENTICATION_FAILURES.labels("locked_out").inc()
            raise RateLimitedError(retry_after_seconds=self._windows.remaining_seconds())

    def accept(self, credential: str) -> None:
        """Remember that a credential is valid, as a keyed hash."""
        digest = self._digest(credential)
        if digest not in self._accepted:
            self._accepted[digest] = None
            if len(self._accepted) > CALLERS_MAX:
                self._accepted.popitem(last=False)

    def fail(self, address: str, kind: str) -> None:
        """Count a wrong credential of this kind."""
        AUTHENTICATION_FAILURES.labels(kind).inc()
        if self._per_minute:
            self._windows.add(_network(address))

    def _digest(self, credential: str) -> bytes:
        text = credential.encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._secret, digest_size=16).digest()


@lru_cache(maxsize=1_000)
def _network(address: str) -> str:
    """Return what is counted for an address: itself, or the network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(
        parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed), _IPV6_PREFIX), strict=False)
    )


class BodyTimeout:
    """Cancels calls whose body does not arrive in time.

    One timer serves all calls, because one per call would cost each of them. A body may take
    `seconds`, plus one second per `bytes_per_second`: slow connections are allowed, but sending a
    byte now and then does not keep a call open for long.
    """

    ENDED = "the body did not come in time"

    def __init__(self, seconds: float = 30.0, *, bytes_per_second: int = 20_000) -> None:
        self._seconds = seconds
        self._rate = bytes_per_second
        self._ends: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: "asyncio.Task[None]") -> None:
        """Start the time limit of the current task."""
        loop = asyncio.get_running_loop()
        self._ends[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / 4, self._look, loop)

    def came(self, task: "asyncio.Task[None]", size: int) -> None:
        """Record that a part of the body was received."""
        if task in self._ends:
            self._ends[task] += size / self._rate

    def end(self, task: "asyncio.Task[None]") -> None:
        """Stop the time limit: the body is complete, or is no longer read."""
        self._ends.pop(task, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task in [task for task, ends in self._ends.items() if ends <= now]:
            self.end(task)
            task.cancel(self.ENDED)
        self._timer = loop.call_later(self._seconds / 4, self._look, loop) if self._ends else None
