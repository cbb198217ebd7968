"""Binding quotes: signed and carried by the caller, not stored; a different price is never
charged.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from creativeflow.services.aigeneration.domain import errors

ID_MAX = 400
_SEAL_BYTES = 18

Terms = Mapping[str, str | None]
"""The quoted prices, as returned by `domain.ordering.quote_terms`."""


class Quotes:
    """Signs quotes and verifies them; any process with the same secret can verify."""

    def __init__(self, secrets: list[bytes]) -> None:
        """Sign with the first secret and verify with all, so that a secret can be rotated."""
        self._keys = [hmac.digest(secret, b"aigen-quote", hashlib.sha256) for secret in secrets]

    def __repr__(self) -> str:
        return f"Quotes({len(self._keys)})"

    def seal(self, user_id: str, terms: Terms, expires_at: datetime) -> str:
        """Return the `quote_id` that a caller sends with create, select, regenerate or retry."""
        text = orjson.dumps([user_id, int(expires_at.timestamp()), dict(terms)])
        return f"q1.{_text(text)}.{_text(_seal(self._keys[0], text))}"

    def open(self, quote_id: str | None, user_id: str, now: datetime) -> Terms | None:
        """Return the quoted terms; None without a quote.

        Raises:
            QuoteExpiredError: the quote has expired.
            InvalidRequestError: the quote is invalid, or was made for another user.
        """
        if quote_id is None:
            return None
        owner, expires_at, terms = self._read(quote_id)
        if owner != user_id:
            raise _unknown()
        if now >= datetime.fromtimestamp(expires_at, UTC):
            raise errors.QuoteExpiredError
        return terms

    def _read(self, quote_id: str) -> tuple[str, int, dict[str, str | None]]:
        version, _, rest = quote_id.partition(".")
        body, _, seal = rest.partition(".")
        try:
            text, sealed = _bytes(body), _bytes(seal)
        except ValueError:
            raise _unknown() from None
        genuine = any([hmac.compare_digest(_seal(key, text), sealed) for key in self._keys])  # noqa: C419 - all of them
        if version != "q1" or not genuine:
            raise _unknown()
        found: Any = orjson.loads(text)
        return found[0], found[1], found[2]


def _unknown() -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        "/quote_id",
        "unknown_quote",
        "Send the `quote_id` of a quote that was made for this user, or leave it out.",
    )


def _seal(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.sha256)[:_SEAL_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
