"""Who is signed in on the pages: a sealed cookie that any process with the same secret can open,
and nothing stored.
"""

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
"""The user for whom the studio of an open service acts until another is named."""
_VERSION = "s1"


class SessionKind(StrEnum):
    """What a session rests on."""

    OPEN = "open"
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - the word, not one


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in. `user_id` is the user for whom the studio acts; `nonce` makes its CSRF token its
    own.
    """

    kind: SessionKind
    name: str
    role: str
    user_id: str
    expires_at: datetime
    nonce: str
    fingerprint: str = ""

    @property
    def may_switch(self) -> bool:
        """Whether the studio may act for another user: for all but end users."""
        return self.role != "user"

    def acting_for(self, user_id: str) -> "Session":
        """The same session for another user; forms on pages that show the one before are no longer
        taken.
        """
        return replace(self, user_id=user_id, nonce=_nonce())

    def principal(self) -> Principal:
        """The caller, acting for the session's user and seeing nobody else's."""
        return Principal(name=self.name, role=self.role, user_id=self.user_id)

    def operator(self) -> Principal:
        """The caller, acting for nobody in particular and seeing all."""
        return Principal(name=self.name, role=self.role)


class Sessions:
    """Makes sessions, seals them into cookies and opens them again."""

    def __init__(
        self,
        secret_keys: Sequence[bytes],
        gate: Authenticator,
        *,
        now: Callable[[], datetime],
        secure: bool,
    ) -> None:
        """Seals with the first secret and opens with any, so that a secret can be rotated."""
        self._keys = [
            hmac.digest(secret, b"aigen-session", hashlib.sha256) for secret in secret_keys
        ]
        self._gate = gate
        self._now = now
        self.secure = secure
        self.cookie = "__Host-aigen_session" if secure else "aigen_session"

    def __repr__(self) -> str:
        return f"Sessions({len(self._keys)})"

    def guest(self, user_id: str = GUEST) -> Session:
        """A session of an open service, where everybody is an operator."""
        return self._begin(SessionKind.OPEN, Principal(name="open", role="operator"), user_id)

    def of_key(self, key: ApiKey, user_id: str) -> Session:
        """A session of a service or operator; it ends when the key is removed from the settings."""
        who = Principal(name=key.name, role=key.role)
        return self._begin(
            SessionKind.KEY, who, user_id, fingerprint=key.fingerprint(self._keys[0])
        )

    def of_token(self, who: Principal, expires: float) -> Session:
        """A session of a token's holder, which ends with the token (unix seconds) if that is
        earlier.
        """
        return self._begin(
            SessionKind.TOKEN, who, who.name, until=datetime.fromtimestamp(expires, UTC)
        )

    def seal(self, session: Session) -> str:
        """The cookie's text."""
        said = orjson.dumps(
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
        return f"{_VERSION}.{_text(said)}.{_text(_mac(self._keys[0], said))}"

    def open(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None where it is not ours, is over, or rests on what is no
        longer configured.
        """
        version, _, rest = (cookie or "").partition(".")
        body, _, seal = rest.partition(".")
        try:
            said, sealed = _bytes(body), _bytes(seal)
        except ValueError:
            return None
        fitting = [key for key in self._keys if hmac.compare_digest(_mac(key, said), sealed)]
        if version != _VERSION or not fitting:
            return None
        session = _read(orjson.loads(said))
        return (
            session
            if self._now() < session.expires_at and self._stands(session, fitting[0])
            else None
        )

    def csrf(self, session: Session) -> str:
        """What every form of this session carries."""
        return _text(_mac(self._keys[0], b"csrf:" + session.nonce.encode()))

    def csrf_fits(self, session: Session, token: str) -> bool:
        """Whether a form is of this session, compared in constant time."""
        said = b"csrf:" + session.nonce.encode()
        given = token.encode(errors="replace")
        fits = [hmac.compare_digest(_text(_mac(key, said)).encode(), given) for key in self._keys]
        return any(fits)

    def seconds_left(self, session: Session) -> int:
        """How long the session still lasts."""
        return max(0, int((session.expires_at - self._now()).total_seconds()))

    def _begin(
        self,
        kind: SessionKind,
        who: Principal,
        user_id: str,
        *,
        until: datetime | None = None,
        fingerprint: str = "",
    ) -> Session:
        ends = self._now() + LIFETIME
        return Session(
            kind=kind,
            name=who.name,
            role=who.role,
            user_id=user_id,
            expires_at=min(ends, until or ends),
            nonce=_nonce(),
            fingerprint=fingerprint,
        )

    def _stands(self, session: Session, seal_key: bytes) -> bool:
        match session.kind:
            case SessionKind.OPEN:
                return self._gate.open
            case SessionKind.KEY:
                return self._gate.key_with(session.fingerprint, seal_key) is not None
            case SessionKind.TOKEN:
                return self._gate.takes_tokens


def _read(said: list[Any]) -> Session:
    kind, name, role, user_id, expires, nonce, fingerprint = said
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


def _mac(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, said, hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
