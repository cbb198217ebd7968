"""Callback tokens of jobs, and signatures of Standard Webhooks."""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from uuid import UUID

TOLERANCE_SECONDS = 300
"""Maximum difference between the timestamp of a signature and now, in both directions."""


class CallbackSecrets:
    """The callback secrets: the first signs, all verify, in constant time; two during a
    rotation.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("at least one callback secret is needed")
        self.keys = [secret.encode() for secret in secrets]
        self._webhook_keys = [_webhook_key(secret) for secret in secrets]

    def __repr__(self) -> str:
        return f"CallbackSecrets({len(self.keys)})"

    def token(self, job_id: UUID) -> str:
        """Return the bearer token for the callbacks of this job only."""
        return _token(self.keys[0], job_id)

    def opens(self, token: str, job_id: UUID) -> bool:
        """Return whether the token was made for this job with one of the secrets."""
        given = token.encode(errors="replace")
        return any([hmac.compare_digest(_token(key, job_id).encode(), given) for key in self.keys])  # noqa: C419

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """Return the `webhook-signature` of a body (Standard Webhooks, v1)."""
        return f"v1,{_signature(self._webhook_keys[0], message_id, timestamp, body)}"

    def signed(
        self, message_id: str, timestamp: str, signatures: str, body: bytes, *, now: float
    ) -> bool:
        """Return whether a signature is valid and its timestamp within five minutes of `now`.

        `now` is in unix seconds.
        """
        if (
            not re.fullmatch(r"[0-9]{1,12}", timestamp)
            or abs(now - int(timestamp)) > TOLERANCE_SECONDS
        ):
            return False
        given = [
            part.partition(",")[2].encode() for part in signatures.split() if part.startswith("v1,")
        ][:8]
        expected = [
            _signature(key, message_id, int(timestamp), body).encode() for key in self._webhook_keys
        ]
        return any([hmac.compare_digest(ours, theirs) for ours in expected for theirs in given])  # noqa: C419


def webhook_headers(
    secrets: Sequence[str], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the headers that authenticate a body: one signature (v1) per secret."""
    signatures = [
        f"v1,{_signature(_webhook_key(secret), message_id, timestamp, body)}" for secret in secrets
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
        "content-type": "application/json",
        "user-agent": "creativeflow-aigen",
    }


def _token(key: bytes, job_id: UUID) -> str:
    digest = hmac.digest(key, b"aigen-callback:" + job_id.bytes, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _webhook_key(secret: str) -> bytes:
    """Return the key of a secret: `whsec_` + base64 of the standard, or the text itself."""
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        if not key:
            raise ValueError("a callback secret has no key after whsec_")
        return key
    return secret.encode()


def _signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
