"""Sign-in sessions of the pages: cookies signed with secrets that all processes share, and a list
of those that were signed out.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from itsdangerous import BadData, Signer, URLSafeSerializer

from creativeflow.services.aigeneration.api.auth import Authenticator, Principal
from creativeflow.services.aigeneration.settings import ApiKey

LIFETIME = timedelta(hours=8)
GUEST = "demo"
"""The default user of the studio of an open service."""
_SALT, _CSRF_SALT = b"aigen-session-2", b"aigen-csrf"


class SessionKind(StrEnum):
    """How a session was authenticated."""

    OPEN = "open"
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - the word, not one


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in.

    `user_id` is the user of the studio; `nonce` makes the CSRF token unique to it;
    `fingerprint` identifies the API key of a key session, `signer` the secret or key that signed
    the token of a token session.
    """

    id: str
    kind: SessionKind
    name: str
    role: str
    user_id: str
    expires_at: datetime
    nonce: str
    fingerprint: str = ""
    signer: str = ""

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


class Revocations(Protocol):
    """The sessions that were signed out, shared by all processes."""

    async def add(self, session_id: str, expires_at: datetime) -> None:
        """Revoke a session; idempotent."""

    async def contains(self, session_id: str) -> bool:
        """Return whether a session is revoked."""


class Sessions:
    """Creates sessions, signs them into cookies and reads them back."""

    def __init__(
        self,
        secret_keys: Sequence[bytes],
        authenticator: Authenticator,
        revocations: Revocations,
        *,
        now: Callable[[], datetime],
        secure: bool,
    ) -> None:
        """Sign with the first secret and verify with any, so that secrets can be rotated."""
        self._keys = list(secret_keys)
        newest_last = list(reversed(secret_keys))
        self._serializer = URLSafeSerializer(
            newest_last,
            _SALT,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._csrf = Signer(
            newest_last, _CSRF_SALT, key_derivation="hmac", digest_method=hashlib.sha256
        )
        self._authenticator = authenticator
        self._revocations = revocations
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

    def create_from_token(self, principal: Principal, signer: str) -> Session:
        """Create a session for a token; it ends no later than the token."""
        return self._create(SessionKind.TOKEN, principal, principal.name, signer=signer)

    def seal(self, session: Session) -> str:
        """Encode and sign a session as a cookie value."""
        values = asdict(session) | {"expires_at": int(session.expires_at.timestamp())}
        return str(self._serializer.dumps(list(values.values())))

    async def open(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie.

        None if the signature is invalid, the session has expired or was signed out, or what it was
        authenticated with is no longer trusted.
        """
        try:
            session = _parse(self._serializer.loads(cookie or ""))
        except (BadData, ValueError, TypeError, RecursionError):
            return None
        return session if await self.is_live(session) else None

    async def is_live(self, session: Session) -> bool:
        """Return whether a session has neither ended nor lost what it was authenticated with."""
        return (
            self._now() < session.expires_at
            and await self._is_supported(session)
            and not await self._revocations.contains(session.id)
        )

    async def revoke(self, session: Session) -> None:
        """End a session in every process, with all its cookies."""
        await self._revocations.add(session.id, session.expires_at)

    def create_csrf_token(self, session: Session) -> str:
        """Create the CSRF token that every form of this session carries."""
        return self._csrf.get_signature(session.nonce).decode()

    def is_csrf_token_valid(self, session: Session, token: str) -> bool:
        """Check a form's CSRF token in constant time."""
        return self._csrf.verify_signature(session.nonce, token.encode(errors="replace"))

    def count_seconds_left(self, session: Session) -> int:
        """Return the remaining lifetime, 0 if expired."""
        return max(0, int((session.expires_at - self._now()).total_seconds()))

    def _create(
        self,
        kind: SessionKind,
        principal: Principal,
        user_id: str,
        *,
        fingerprint: str = "",
        signer: str = "",
    ) -> Session:
        ends = self._now() + LIFETIME
        return Session(
            id=_nonce(),
            kind=kind,
            name=principal.name,
            role=principal.role,
            user_id=user_id,
            expires_at=min(ends, principal.expires_at or ends),
            nonce=_nonce(),
            fingerprint=fingerprint,
            signer=signer,
        )

    async def _is_supported(self, session: Session) -> bool:
        match session.kind:
            case SessionKind.OPEN:
                return self._authenticator.open
            case SessionKind.KEY:
                found = (
                    self._authenticator.key_with(session.fingerprint, key) for key in self._keys
                )
                return any(found)
            case SessionKind.TOKEN:
                return await self._authenticator.trusts_signer(session.signer)


def _parse(values: list[Any]) -> Session:
    names = [each.name for each in fields(Session)]
    found = dict(zip(names, values, strict=True))
    found["kind"] = SessionKind(found["kind"])
    found["expires_at"] = datetime.fromtimestamp(found["expires_at"], UTC)
    return Session(**found)


def _nonce() -> str:
    return secrets.token_urlsafe(18)
