"""The issuer's JSON Web Key Set: one fetch at a time, cached for minutes, replaced as a whole."""

import asyncio
import time
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
STALE_SECONDS = 3600.0
"""Time for which the last set is used while the issuer does not respond."""
RETRY_SECONDS = 10.0
"""Minimum time between two fetches once a set is known, even for tokens with unknown key ids."""
DEADLINE_SECONDS = 5.0
KNOWN_KEY_WAITS_SECONDS = 1.0
"""Maximum time for which a token with a known key waits for a fetch."""
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
        self._fetched_at = self._asked_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key with this id.

        Raises:
            InvalidCredentialsError: the issuer has no such key.
            ServiceUnavailableError: the issuer does not respond, and the cached set is missing or
            too old.
        """
        if not key_id:
            raise InvalidCredentialsError
        known = self._keys is not None and key_id in self._keys
        if not known or self._monotonic() - self._fetched_at > FRESH_SECONDS:
            await self._refresh(KNOWN_KEY_WAITS_SECONDS if known else DEADLINE_SECONDS)
        if self._keys is None or self._monotonic() - self._fetched_at > STALE_SECONDS:
            raise ServiceUnavailableError(retry_after_seconds=5)
        if key_id not in self._keys:
            raise InvalidCredentialsError
        return self._keys[key_id]

    async def _refresh(self, wait_seconds: float) -> None:
        """Join a running fetch or start one, unless the last one was very recent."""
        if self._fetching is None or self._fetching.done():
            if self._keys is not None and self._monotonic() - self._asked_at < RETRY_SECONDS:
                return
            self._asked_at = self._monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="key-set")
        await asyncio.wait({self._fetching}, timeout=wait_seconds)

    async def _fetch(self) -> None:
        try:
            self._keys = await fetch_key_set(self._http, self._url)
        except KeySetError as error:
            log.warning("key_set_unavailable", reason=str(error))
            return
        self._fetched_at = self._monotonic()


async def fetch_key_set(http: httpx.AsyncClient, url: str) -> Mapping[str, jwt.PyJWK]:
    """Fetch the signing keys by their id, within `DEADLINE_SECONDS`.

    Raises:
        KeySetError: the issuer does not respond with a key set of at most 256 KiB.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await http.get(url, headers={"Accept": "application/json"})
        answer.raise_for_status()
        if len(answer.content) > _BYTES_MAX:
            raise KeySetError("larger than 256 KiB")
        found = jwt.PyJWKSet.from_dict(answer.json())
    except (
        httpx.HTTPError,
        jwt.PyJWTError,
        ValueError,
        AttributeError,
        TypeError,
        TimeoutError,
    ) as error:
        raise KeySetError(type(error).__name__) from error
    return {
        key.key_id: key for key in found.keys if key.key_id and key.public_key_use in {None, "sig"}
    }
