"""Authentication: API keys of services, JWTs of end users, roles of operators."""

import hashlib
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import urlsplit

import jwt
from fastapi import Depends, Request

from creativeflow.services.aigeneration.api.rate_limit import LockOut
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.user_ids import normalise_user_id
from creativeflow.services.aigeneration.settings import ApiKey

LEEWAY_SECONDS = 10
"""Time for which an expired token is still accepted, for clocks that differ."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_ELSEWHERE = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site in calls from pages of other sites; only browsers send the header."""
_LAST_SECOND = 250_000_000_000
"""In the year 9892, in Unix seconds."""
_KEY_TYPES = {"RS256": "RSA", "ES256": "EC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller; `user_id` is the user they act for, None for a service that acts for
    all.
    """

    name: str
    role: str
    user_id: str | None = None
    api_key: str | None = None
    """The name of the API key that authenticated the caller."""
    by_token: bool = False
    """Whether a token authenticated the caller; its subject may equal the name of a key."""
    expires_at: datetime | None = None
    """When the caller's token ends, with the leeway."""

    @property
    def identity(self) -> str:
        """The name that requests, webhook endpoints and timelines keep; API keys have no colon in
        theirs.
        """
        return f"{self.role}:{self.name}" if self.by_token else self.name

    @property
    def owner(self) -> str:
        """The owner of the rate limits and idempotency keys of a call."""
        namespace = self.role if self.by_token else "key"
        name = self.name.replace("%", "%25").replace("/", "%2F")
        return f"{namespace}:{name}/{self.user_id or ''}"

    @property
    def operator(self) -> bool:
        """Whether operator calls are allowed."""
        return self.role == "operator"

    @property
    def end_user(self) -> bool:
        """Whether the caller is an end user with a token."""
        return self.role == "user"

    def acting_for(self, named: str | None) -> str:
        """Return the user that a new request belongs to.

        Raises:
            UserMismatchError: the body names another user than the token or the header.
            InvalidRequestError: no user is named.
        """
        user_id = self.confined_to(named)
        if user_id is None:
            raise errors.InvalidRequestError.at(
                "/user_id", "missing", "Name the user: `user_id` or X-User-ID."
            )
        return user_id

    def confined_to(self, named: str | None) -> str | None:
        """Return the user whose requests an action may concern; None: any user's.

        Raises:
            UserMismatchError: the body names another user than the token or the header.
        """
        if self.user_id is not None and named not in {None, self.user_id}:
            raise errors.UserMismatchError
        return self.user_id or named


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """The claims of a token, and which secret or key signed it, as `trusts_signer` takes it."""

    claims: Mapping[str, Any]
    signer: str


class Authenticator:
    """Authenticates callers; open if nothing is configured, which only the embedded profile
    allows.
    """

    def __init__(
        self,
        *,
        keys: Sequence[ApiKey],
        jwt_secrets: Sequence[str],
        jwks: Callable[[str | None], Awaitable[jwt.PyJWK]] | None,
        audience: str | None,
        issuer: str | None,
        public_url: str | None = None,
        host: str = "",
        failures_per_minute: int = 0,
    ) -> None:
        self._keys = keys
        self._lock_out = LockOut(failures_per_minute)
        self._own_name = urlsplit(public_url).hostname if public_url else None
        self._own_names = {self._own_name, host} - {None, "", "0.0.0.0", "::"}  # noqa: S104 - no name to call it by
        self._jwt_secrets = jwt_secrets
        self._jwks = jwks
        self._audience = audience
        self._issuer = issuer
        self.open = not (keys or jwt_secrets or jwks)
        self.takes_keys = bool(keys)
        self.takes_tokens = bool(jwt_secrets or jwks)

    async def admit(self, request: Request) -> Principal:
        """Authenticate the caller of a request.

        Raises:
            AuthenticationRequiredError, InvalidCredentialsError, TokenExpiredError,
            RateLimitedError.
            CsrfError, HostNotAllowedError: nothing is configured, and by the browser's headers or
            the host name the call comes from the page of another site.
        """
        self.check_name(request)
        acting_for = _user_header(request)
        if self.open:
            if request.method not in _READS and request.headers.get("sec-fetch-site") in _ELSEWHERE:
                raise errors.CsrfError
            return Principal(name="open", role="operator", user_id=acting_for)
        if key := header_text(request, "x-internal-api-key"):
            found = self.key(key, address_of(request))
            return Principal(
                name=found.name, role=found.role, user_id=acting_for, api_key=found.name
            )
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise errors.AuthenticationRequiredError
        verified = await self.verify(token.strip(), address_of(request))
        return self.holder(verified.claims, acting_for)

    def check_name(self, request: Request) -> None:
        """Check the host name of a call to an open service, because a page of another site can make
        its own name resolve to this machine.

        Raises:
            HostNotAllowedError: the service is open, and the host is a public name that the
            settings do not list.
        """
        if self.open:
            name = _hostname(request.headers.get("host", ""))
            if name != self._own_name and _may_be_a_site(name):
                raise errors.HostNotAllowedError
            origin = request.headers.get("origin")
            if origin is not None and request.method not in _READS:
                self._check_origin(origin, request.headers.get("host", ""))

    def _check_origin(self, origin: str, host: str) -> None:
        """Refuse an unsafe call of a page unless the page is of this service, under a name that no
        other site can have.

        Browsers send Origin with every unsafe call. `0.0.0.0`, mapped addresses and names without a
        dot lead to this service as well, but pages of other sites can have them.
        """
        try:
            parts = urlsplit(origin)
            name = (parts.hostname or "").rstrip(".")
        except ValueError:
            raise errors.CsrfError from None
        own_address = self._own_name is not None and name == self._own_name
        if not (
            own_address
            or (parts.netloc == host and (name in self._own_names or _is_loopback(name)))
        ):
            raise errors.CsrfError

    def key(self, text: str, address: str) -> ApiKey:
        """Return the configured key that matches; a wrong one is counted for the client's address.

        Raises:
            InvalidCredentialsError: there is none. RateLimitedError: the address is locked out.
        """
        self._lock_out.check(address, text)
        found = [known for known in self._keys if known.matches(text)]
        if not found:
            self._lock_out.fail(address, "key")
            raise errors.InvalidCredentialsError
        self._lock_out.accept(text)
        return found[0]

    def key_with(self, fingerprint: str, secret: bytes) -> ApiKey | None:
        """Return the configured key with this fingerprint; None if it has been removed."""
        return next(
            (known for known in self._keys if known.has_fingerprint(fingerprint, secret)), None
        )

    def holder(self, claims: Mapping[str, Any], acting_for: str | None) -> Principal:
        """Return the principal of a token.

        Raises:
            InvalidCredentialsError: the token has no subject.
            UserMismatchError: the token is a user's, and the call names another user.
        """
        roles = claims.get("roles") or []
        subject = normalise_user_id(claims["sub"]) if isinstance(claims["sub"], str) else None
        if subject is None:
            raise errors.InvalidCredentialsError
        operator = isinstance(roles, list) and "operator" in roles
        if not operator and acting_for not in {None, subject}:
            raise errors.UserMismatchError
        return Principal(
            name=subject,
            role="operator" if operator else "user",
            user_id=acting_for if operator else subject,
            by_token=True,
            expires_at=_end_of(claims["exp"]),
        )

    async def verify(self, token: str, address: str) -> VerifiedToken:
        """Verify a token; a wrong one is counted for the client's address.

        Raises:
            InvalidCredentialsError, TokenExpiredError.
            RateLimitedError: the address is locked out.
            ServiceUnavailableError: the key set cannot be loaded.
        """
        self._lock_out.check(address, token)
        try:
            verified = await self._verify(token)
        except errors.TokenExpiredError:  # signed by the issuer: no guess
            raise
        except errors.InvalidCredentialsError:
            self._lock_out.fail(address, "token")
            raise
        self._lock_out.accept(token)
        return verified

    async def trusts_signer(self, signer: str) -> bool:
        """Return whether tokens of this secret or key are still accepted; true while the key set
        cannot be loaded.
        """
        kind, _, name = signer.partition(":")
        if kind == "secret":
            return any(_fingerprint(secret) == name for secret in self._jwt_secrets)
        if self._jwks is None:
            return False
        try:
            await self._jwks(name)
        except errors.InvalidCredentialsError:
            return False
        except errors.ServiceUnavailableError:
            return True
        return True

    async def _verify(self, token: str) -> VerifiedToken:
        """Verify a token; its algorithm determines which key may verify it."""
        try:
            algorithm = str(jwt.get_unverified_header(token).get("alg"))
            if algorithm == "HS256" and self._jwt_secrets:
                return self._verify_with_secrets(token)
            key_id, key = await self._find_key(algorithm, token)
            return VerifiedToken(self._decode(token, key, algorithm), f"key:{key_id}")
        except jwt.ExpiredSignatureError:
            raise errors.TokenExpiredError from None
        except (jwt.PyJWTError, OverflowError, RecursionError):
            # The JSON parser raises the last two for unbounded numbers and nesting.
            raise errors.InvalidCredentialsError from None

    def _verify_with_secrets(self, token: str) -> VerifiedToken:
        for secret in self._jwt_secrets:
            with suppress(jwt.InvalidSignatureError):
                claims = self._decode(token, secret, "HS256")
                return VerifiedToken(claims, f"secret:{_fingerprint(secret)}")
        raise errors.InvalidCredentialsError

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
        )
        return claims

    async def _find_key(self, algorithm: str, token: str) -> tuple[str, Any]:
        """Return the key of the key set that may verify a token of this algorithm, with its id; a
        key of another kind never does.
        """
        if algorithm not in _KEY_TYPES or not self._jwks:
            raise errors.InvalidCredentialsError
        key_id = jwt.get_unverified_header(token).get("kid")
        if not isinstance(key_id, str):
            raise errors.InvalidCredentialsError
        found = await self._jwks(key_id)
        if found.key_type != _KEY_TYPES[algorithm]:
            raise errors.InvalidCredentialsError
        return key_id, found.key


def _fingerprint(secret: str) -> str:
    """Return a hash that tells secrets apart; it reveals no more than a token they signed."""
    return hashlib.sha256(b"aigen-signer:" + secret.encode()).hexdigest()[:32]


def _end_of(expires: Any) -> datetime:
    """Return the end of a token, at most the last moment that a clock can show."""
    seconds = min(max(0, int(expires)), _LAST_SECOND) + LEEWAY_SECONDS
    return datetime.fromtimestamp(seconds, UTC)


def address_of(request: Request) -> str:
    """Return the client's address: that of the connection, or the one that a proxy in
    `AIGEN_TRUSTED_PROXIES` names.
    """
    return request.client.host if request.client else ""


def count(request: Request, principal: Principal) -> None:
    """Count a call towards its caller's rate limit, and log the caller.

    Raises:
        RateLimitedError: the limit is exceeded.
    """
    request.scope["aigen.principal"] = "user" if principal.end_user else principal.name
    services_of(request).rate_limiter.check(request, principal.owner, api_key=principal.api_key)


@lru_cache(maxsize=100)
def _hostname(host: str) -> str:
    """Return the name or address in a Host header; a dot if it is unreadable."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return "."


@lru_cache(maxsize=100)
def _may_be_a_site(name: str) -> bool:
    """Return whether a name can belong to a site: no address, not this machine, and with a dot."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and not name.endswith(".localhost")
    return False


@lru_cache(maxsize=100)
def _is_loopback(name: str) -> bool:
    """Return whether a name always resolves to this machine."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback and not (address.version == 6 and address.ipv4_mapped)  # noqa: PLR2004


def _user_header(request: Request) -> str | None:
    header = header_text(request, "x-user-id")
    if header is None:
        return None
    user_id = normalise_user_id(header)
    if user_id is None:
        raise errors.InvalidRequestError.at(
            "/header/X-User-ID", "invalid_user", "X-User-ID is not a user id."
        )
    return user_id


def header_text(request: Request, name: str) -> str | None:
    """Return a header in UTF-8; the framework reads its bytes as Latin-1.

    The middleware refuses headers that are not UTF-8.
    """
    value = request.headers.get(name)
    return value if value is None or value.isascii() else value.encode("latin-1").decode()


async def _caller(request: Request) -> Principal:
    gate = services_of(request).authenticator
    principal: Principal = request.scope.get("aigen.admitted") or await gate.admit(request)
    count(request, principal)
    return principal


async def _operator(principal: Annotated[Principal, Depends(_caller)]) -> Principal:
    if not principal.operator:
        raise errors.ForbiddenError(role="operator")
    return principal


async def _service(principal: Annotated[Principal, Depends(_caller)]) -> Principal:
    if principal.end_user:
        raise errors.ForbiddenError(role="service")
    return principal


AnyCaller = Annotated[Principal, Depends(_caller)]
Operator = Annotated[Principal, Depends(_operator)]
ServiceCaller = Annotated[Principal, Depends(_service)]
OPERATORS_ONLY = Depends(_operator)
CALLERS_ONLY = Depends(_caller)
