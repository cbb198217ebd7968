"""Sign-in sessions of the pages: stateless cookies, signed with secrets all processes share."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from creativeflow.services.aigeneration.api.auth import Authenticator, Principal
from creativeflow.services.aigeneration.settings import ApiKey

LIFETIME = timedelta(hours=8)
GUEST = "demo"
"""The default user of the studio of an open service."""
_VERSION = "s1"


class SessionKind(StrEnum):
    """How a session was authenticated."""

    OPEN = "open"
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - the word, not one


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in.

    `user_id` is the user of the studio; `nonce` makes the CSRF token unique to it;
    `fingerprint` identifies the API key of a key session.
    """

    kind: SessionKind
    name: str
    role: str
    user_id: str
    expires_at: datetime
    nonce: str
    fingerprint: str = ""

    @property
    def can_switch_user(self) -> bool:
        """Whether the studio may act as another user: true for all roles but end users."""
        return self.role != "user"

    def switch_user(self, user_id: str) -> "Session":
        """Return the session for another user; earlier forms become invalid."""
        return replace(self, user_id=user_id, nonce=_nonce())

    def to_user_principal(self) -> Principal:
        """Return a principal that acts as the session's user and sees only what is theirs."""
        return replace(self.to_operator_principal(), user_id=self.user_id)

    def to_operator_principal(self) -> Principal:
        """Return a principal that acts as no particular user and sees everything."""
        return Principal(
            name=self.name,
            role=self.role,
            api_key=self.name if self.kind is SessionKind.KEY else None,
            by_token=self.kind is SessionKind.TOKEN,
        )


class Sessions:
    """Creates sessions, signs them into cookies and reads them back."""

    def __init__(
        self,
        secret_keys: Sequence[bytes],
        authenticator: Authenticator,
        *,
        now: Callable[[], datetime],
        secure: bool,
    ) -> None:
        """Sign with the first secret and verify with any, so that secrets can be rotated."""
        self._keys = [
            hmac.digest(secret, b"aigen-session", hashlib.sha256) for secret in secret_keys
        ]
        self._authenticator = authenticator
        self._now = now
        self.secure = secure
        self.cookie = "__Host-aigen_session" if secure else "aigen_session"

    def __repr__(self) -> str:
        return f"Sessions({len(self._keys)})"

    def create_guest(self, user_id: str = GUEST) -> Session:
        """Create a session of an open service, where everyone is an operator."""
        return self._create(SessionKind.OPEN, Principal(name="open", role="operator"), user_id)

    def create_from_key(self, key: ApiKey, user_id: str) -> Session:
        """Create a session of a service or operator; it ends when the key leaves the settings."""
        principal = Principal(name=key.name, role=key.role)
        return self._create(
            SessionKind.KEY, principal, user_id, fingerprint=key.fingerprint(self._keys[0])
        )

    def create_from_token(self, principal: Principal, expires: float) -> Session:
        """Create a session for a token; it ends no later than `expires`, in Unix seconds."""
        return self._create(
            SessionKind.TOKEN,
            principal,
            principal.name,
            ends_by=datetime.fromtimestamp(expires, UTC),
        )

    def seal(self, session: Session) -> str:
        """Encode and sign a session as a cookie value."""
        payload = orjson.dumps(
            [
                session.kind,
                session.name,
                session.role,
                session.user_id,
                int(session.expires_at.timestamp()),
                session.nonce,
                session.fingerprint,
            ]
        )
        return f"{_VERSION}.{_encode(payload)}.{_encode(_sign(self._keys[0], payload))}"

    def open(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie.

        None if the signature is invalid, the session has expired, or the key or token support it
        was authenticated with is no longer configured.
        """
        version, _, rest = (cookie or "").partition(".")
        body, _, signature = rest.partition(".")
        try:
            payload, signed = _decode(body), _decode(signature)
        except ValueError:
            return None
        signers = [key for key in self._keys if hmac.compare_digest(_sign(key, payload), signed)]
        if version != _VERSION or not signers:
            return None
        session = _parse(orjson.loads(payload))
        return (
            session
            if self._now() < session.expires_at and self._is_supported(session, signers[0])
            else None
        )

    def create_csrf_token(self, session: Session) -> str:
        """Create the CSRF token that every form of this session carries."""
        return _encode(_sign(self._keys[0], b"csrf:" + session.nonce.encode()))

    def is_csrf_token_valid(self, session: Session, token: str) -> bool:
        """Check a form's CSRF token in constant time."""
        message = b"csrf:" + session.nonce.encode()
        given = token.encode(errors="replace")
        matches = [
            hmac.compare_digest(_encode(_sign(key, message)).encode(), given) for key in self._keys
        ]
        return any(matches)

    def count_seconds_left(self, session: Session) -> int:
        """Return the remaining lifetime, 0 if expired."""
        return max(0, int((session.expires_at - self._now()).total_seconds()))

    def _create(
        self,
        kind: SessionKind,
        principal: Principal,
        user_id: str,
        *,
        ends_by: datetime | None = None,
        fingerprint: str = "",
    ) -> Session:
        ends = self._now() + LIFETIME
        return Session(
            kind=kind,
            name=principal.name,
            role=principal.role,
            user_id=user_id,
            expires_at=min(ends, ends_by or ends),
            nonce=_nonce(),
            fingerprint=fingerprint,
        )

    def _is_supported(self, session: Session, signing_key: bytes) -> bool:
        match session.kind:
            case SessionKind.OPEN:
                return self._authenticator.open
            case SessionKind.KEY:
                return self._authenticator.key_with(session.fingerprint, signing_key) is not None
            case SessionKind.TOKEN:
                return self._authenticator.takes_tokens


def _parse(payload: list[Any]) -> Session:
    kind, name, role, user_id, expires, nonce, fingerprint = payload
    return Session(
        kind=SessionKind(kind),
        name=name,
        role=role,
        user_id=user_id,
        expires_at=datetime.fromtimestamp(expires, UTC),
        nonce=nonce,
        fingerprint=fingerprint,
    )


def _nonce() -> str:
    return secrets.token_urlsafe(18)


def _sign(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
