"""Standard Webhooks signatures (https://www.standardwebhooks.com), checked in constant time."""

import base64
import binascii
import hashlib
import hmac
import re

TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"


def sign(secret, message_id, timestamp, body):
    """The signature of a body: `v1,` and the base64 of its HMAC-SHA256.

    Raises:
        ValueError: the secret is not `whsec_` and base64.
    """
    digest = hmac.digest(_key(secret), f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def verified(secret, headers, body, *, now):
    """Whether one of the signatures in the headers is ours and its time is within five minutes of `now` (seconds)."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not re.fullmatch(r"[0-9]{1,12}", timestamp, re.ASCII):
        return False
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    try:
        expected = sign(secret, message_id, timestamp, body).encode()
    except ValueError:
        return False
    given = headers.get("webhook-signature", "").split()[:8]
    return any([hmac.compare_digest(expected, each.encode("utf-8", "replace")) for each in given])  # noqa: C419


def _key(secret):
    if not secret or not secret.startswith(_PREFIX):
        raise ValueError("a webhook secret begins with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a webhook secret is base64 after whsec_") from error
    if not key:
        raise ValueError("a webhook secret has a key after whsec_")
    return key
