"""The issuer's JSON Web Key Set: one fetch at a time, cached for minutes, replaced as a whole."""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import httpx
import jwt
import structlog

from creativeflow.services.aigeneration.domain.errors import (
    InvalidCredentialsError,
    ServiceUnavailableError,
)

log = structlog.get_logger(__name__)

FRESH_SECONDS = 300.0
"""Time for which a set is used without fetching; a key that the issuer removed is trusted no longer
than this.
"""
REFRESH_SECONDS = FRESH_SECONDS / 2
"""Age from which calls start a fetch in the background and do not wait for it."""
STALE_SECONDS = 3600.0
"""Time for which the last set is used while the issuer does not respond."""
RETRY_SECONDS = 10.0
"""Minimum time between the starts of two fetches once a set is known; before that, the pause after
a slow fetch that failed is as long as the fetch was.
"""
SLOW_SECONDS = 1.0
DEADLINE_SECONDS = 5.0
KNOWN_KEY_WAITS_SECONDS = 1.0
"""Maximum time for which a token with a known key waits for a fetch: only after an idle time of
`FRESH_SECONDS`, and only if the last fetch did not fail.
"""
UNKNOWN_SECONDS = 60.0
"""Time for which a key id that the issuer does not have causes no other fetch."""
UNKNOWN_MAX = 1000
_BYTES_MAX = 256 * 1024


class KeySetError(Exception):
    """The key set could not be fetched; the message is the reason, without the URL."""


class KeySet:
    """Looks up signing keys by their id; known keys never wait for an unresponsive issuer."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._http = http
        self._url = url
        self._monotonic = monotonic
        self._keys: Mapping[str, jwt.PyJWK] | None = None
        self._fetched_at = self._next_fetch_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None
        self._unknown: OrderedDict[str, float] = OrderedDict()

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key with this id.

        Raises:
            InvalidCredentialsError: the issuer has no such key.
            ServiceUnavailableError: the issuer does not respond, and the cached set is missing,
            too old, or may lack this key.
        """
        if not key_id:
            raise InvalidCredentialsError
        began = self._monotonic()
        if self._keys is not None and key_id in self._keys:
            await self._renew()
        elif not self._is_known_as_absent(key_id):
            await self._wait(self._start_fetch(), DEADLINE_SECONDS)
        if self._keys is None or self._age > STALE_SECONDS:
            raise ServiceUnavailableError(retry_after_seconds=5)
        if key_id in self._keys:
            return self._keys[key_id]
        if self._failing or self._is_fetching:
            raise ServiceUnavailableError(retry_after_seconds=5)
        if self._fetched_at >= began:
            self._remember_as_absent(key_id)
        raise InvalidCredentialsError

    @property
    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    @property
    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    async def _renew(self) -> None:
        """Fetch a set that grows old, and wait for that only where the set is no longer fresh."""
        if self._age <= REFRESH_SECONDS:
            return
        fetching = self._start_fetch()
        if self._age > FRESH_SECONDS and not self._failing:
            await self._wait(fetching, KNOWN_KEY_WAITS_SECONDS)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Return the running fetch, or a new one; None if the last was a moment ago."""
        if not self._is_fetching:
            if self._monotonic() < self._next_fetch_at:
                return None
            self._next_fetch_at = self._monotonic() + RETRY_SECONDS
            self._fetching = asyncio.create_task(self._fetch(), name="key-set")
        return self._fetching

    async def _wait(self, fetching: asyncio.Task[None] | None, seconds: float) -> None:
        if fetching is None:
            return
        _, pending = await asyncio.wait({fetching}, timeout=seconds)
        self._failing = self._failing or bool(pending)

    async def _fetch(self) -> None:
        began = self._monotonic()
        try:
            self._keys = await fetch_key_set(self._http, self._url)
        except KeySetError as error:
            self._failing = True
            if self._keys is None:
                seconds = self._monotonic() - began
                self._next_fetch_at = self._monotonic() + (seconds if seconds > SLOW_SECONDS else 0)
            log.warning("key_set_unavailable", reason=str(error))
            return
        self._fetched_at, self._failing = self._monotonic(), False

    def _is_known_as_absent(self, key_id: str) -> bool:
        return self._unknown.get(key_id, float("-inf")) > self._monotonic()

    def _remember_as_absent(self, key_id: str) -> None:
        self._unknown[key_id] = self._monotonic() + UNKNOWN_SECONDS
        self._unknown.move_to_end(key_id)
        if len(self._unknown) > UNKNOWN_MAX:
            self._unknown.popitem(last=False)


async def fetch_key_set(http: httpx.AsyncClient, url: str) -> Mapping[str, jwt.PyJWK]:
    """Fetch the signing keys by their id, within `DEADLINE_SECONDS`.

    Raises:
        KeySetError: the issuer does not respond with a key set of at most 256 KiB.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            found = jwt.PyJWKSet.from_dict(json.loads(await _read(http, url)))
    except (
        httpx.HTTPError,
        jwt.PyJWTError,
        ValueError,
        AttributeError,
        TypeError,
        RecursionError,
        TimeoutError,
    ) as error:
        raise KeySetError(type(error).__name__) from error
    return {
        key.key_id: key for key in found.keys if key.key_id and key.public_key_use in {None, "sig"}
    }


async def _read(http: httpx.AsyncClient, url: str) -> bytes:
    """Return the body of the key set; one that is too large is not read to its end."""
    body = b""
    async with http.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > _BYTES_MAX:
                raise KeySetError("larger than 256 KiB")
    return body
