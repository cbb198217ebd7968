"""Proofs: that a callback is a worker's, by the token of one job, and Standard Webhooks signatures
both ways.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from uuid import UUID

TOLERANCE_SECONDS = 300
"""How far a signature's timestamp may be off, before and after."""


class CallbackSecrets:
    """One live secret, or two while rotating: the first signs, all verify. Compared in constant
    time.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("at least one callback secret is needed")
        self.keys = [secret.encode() for secret in secrets]
        self._webhook_keys = [_webhook_key(secret) for secret in secrets]

    def __repr__(self) -> str:
        return f"CallbackSecrets({len(self.keys)})"

    def token(self, job_id: UUID) -> str:
        """The bearer token that opens the callbacks of this job and nothing else."""
        return _token(self.keys[0], job_id)

    def opens(self, token: str, job_id: UUID) -> bool:
        """Whether the token was made for this job with a live secret."""
        given = token.encode(errors="replace")
        return any([hmac.compare_digest(_token(key, job_id).encode(), given) for key in self.keys])  # noqa: C419

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """The `webhook-signature` of a body (Standard Webhooks, v1)."""
        return f"v1,{_signature(self._webhook_keys[0], message_id, timestamp, body)}"

    def signed(
        self, message_id: str, timestamp: str, signatures: str, body: bytes, *, now: float
    ) -> bool:
        """Whether one of the signatures is ours and the timestamp is within five minutes of `now`
        (unix seconds).
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
    """The headers that prove to a receiver that a body is ours: one signature (v1) for each
    secret.
    """
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
    """`whsec_` + base64 as the standard has it; any other text is the key itself."""
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        if not key:
            raise ValueError("a callback secret has no key after whsec_")
        return key
    return secret.encode()


def _signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
