"""Authentication and authorisation: services by key, users by token, operators by role."""

import asyncio
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from creativeflow.services.aigeneration.api import rate_limit
from creativeflow.services.aigeneration.settings import Settings
from tests.e2e.journey import NOBODY, OPERATIONS, PLAIN, REQUESTS, Caller, Footprint, assert_problem

SERVICE_KEY, OPERATOR_KEY, HASHED_KEY = (
    "the-key-of-the-shop",
    "the-key-of-the-operator",
    "a-key-only-its-owner-knows",
)
JWT_SECRET = "the secret of the end users' tokens"
DIGEST = hashlib.sha256(HASHED_KEY.encode()).hexdigest()
KEYS = (
    f"shop:service:{SERVICE_KEY},duty:operator:{OPERATOR_KEY},odoo:service:sha256${DIGEST.upper()}"
)


def by_key(key: str, user_id: str | None = None) -> dict[str, str]:
    """Return the headers of a service or operator."""
    return {"X-Internal-API-Key": key} | ({"X-User-ID": user_id} if user_id else {})


def token(
    sub: str = "user", *, secret: Any = JWT_SECRET, algorithm: str = "HS256", **claims: Any
) -> dict[str, str]:
    """Return the headers of an end user."""
    named = {"kid": claims.pop("kid")} if "kid" in claims else None
    ends = int(time.time()) + int(claims.pop("lasts", 600))
    signed = jwt.encode({"sub": sub, "exp": ends, **claims}, secret, algorithm, named)
    return {"Authorization": f"Bearer {signed}"}


@pytest.fixture(scope="module")
async def locked(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """A client of a service with keys and user tokens; `user` and `other` are on the Pro plan."""
    caller = await make_shared(api_keys=KEYS, jwt_secret=JWT_SECRET)
    for user in ("user", "other"):
        await caller.test_app.grant(user, 1000, "pro")
    return caller


@pytest.fixture(scope="module")
async def named(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """Return a client of an open service with a public name."""
    return await make_shared(public_url="https://own.example")


async def made(caller: Caller, headers: dict[str, str], **changes: Any) -> dict[str, Any]:
    """Create a request and return its id."""
    answer = await caller.post(REQUESTS, json=PLAIN | changes, headers=headers)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    created: dict[str, Any] = answer.json()
    return created


# Open service


async def test_open_service_every_caller_is_operator(client: Caller) -> None:
    created = await made(client, {}, user_id="user")
    assert (await client.look(created["id"]))["user_id"] == "user"
    assert (await client.get(f"{OPERATIONS}/invariants")).status_code == httpx.codes.OK


async def test_open_service_call_from_a_page_of_another_site_is_refused(client: Caller) -> None:
    created = await made(client, {}, user_id="user")
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert_problem(
            await client.act(created["id"], "cancel", headers=headers), 403, "csrf_failed"
        )
        assert (
            await client.get(f"{REQUESTS}/{created['id']}", headers=headers)
        ).status_code == httpx.codes.OK
    own = await client.act(created["id"], "cancel", headers={"Sec-Fetch-Site": "same-origin"})
    assert own.status_code == httpx.codes.OK


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:8000", 200),
        ("aigen", 200),
        ("studio.localhost", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("own.example:443", 200),
        ("OWN.example.", 200),
        ("", 200),
        ("evil.example", 403),
        ("own.example.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("[::1.x", 403),
        ("localhost.evil.example", 403),
        ("evil.example.", 403),
    ],
)
async def test_open_service_public_host_name_is_refused(
    named: Caller, name: str, status: int
) -> None:
    """DNS rebinding: a page whose name resolves to this machine sends no foreign Origin."""
    for method, path, body in (
        ("GET", REQUESTS, None),
        ("POST", f"{REQUESTS}/quote", PLAIN | {"user_id": "user"}),
    ):
        answer = await named.request(method, path, json=body, headers={"Host": name})
        assert answer.status_code == status, answer.text
        if status == httpx.codes.FORBIDDEN:
            assert_problem(answer, 403, "host_not_allowed")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("own.example", "https://own.example", 200),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "null", 403),
        ("127.0.0.1:8000", "http://[", 403),
        ("127.0.0.1:8000", "", 403),
        ("0.0.0.0:8000", "http://0.0.0.0:8000", 403),
        ("evil:8000", "http://evil:8000", 403),
        ("[::ffff:127.0.0.1]:8000", "http://[::ffff:127.0.0.1]:8000", 403),
        ("[::]:8000", "http://[::]:8000", 403),
        ("192.0.2.7:8000", "http://192.0.2.7:8000", 403),
    ],
)
async def test_open_service_with_a_foreign_origin_refuses_unsafe_methods(
    named: Caller, host: str, origin: str, status: int
) -> None:
    headers = {"Host": host, "Origin": origin}
    answer = await named.post(
        f"{REQUESTS}/quote", json=PLAIN | {"user_id": "user"}, headers=headers
    )
    assert answer.status_code == status, answer.text
    if status == httpx.codes.FORBIDDEN:
        assert_problem(answer, 403, "csrf_failed")
    assert (await named.get(REQUESTS, headers=headers)).status_code == httpx.codes.OK


async def test_host_with_configured_keys_is_not_checked(locked: Caller) -> None:
    headers = by_key(SERVICE_KEY) | {"Host": "evil.example"}
    assert (await locked.get(REQUESTS, headers=headers)).status_code == httpx.codes.OK


async def test_user_header_limits_a_call_to_that_user(client: Caller) -> None:
    mine = await made(client, {"X-User-ID": "user"})
    foreign = await made(client, {"X-User-ID": "other"})
    assert (mine["user_id"], foreign["user_id"]) == ("user", "other")
    listed = (await client.get(REQUESTS, headers={"X-User-ID": "user"})).json()["items"]
    assert [item["id"] for item in listed] == [mine["id"]]
    hidden = await client.get(REQUESTS, params={"user_id": "other"}, headers={"X-User-ID": "user"})
    assert hidden.json() == {"items": [], "next": None}
    assert len((await client.get(REQUESTS)).json()["items"]) == 2
    answer = await client.post(f"{REQUESTS}/{foreign['id']}/cancel", headers={"X-User-ID": "user"})
    assert_problem(answer, 404, "not_found")
    assert (await client.look(foreign["id"]))["status"] == "PENDING"


# Keys


async def test_service_key_acts_for_all_users_or_the_named_one(locked: Caller) -> None:
    mine = await made(locked, by_key(SERVICE_KEY), user_id="user")
    theirs = await made(locked, by_key(SERVICE_KEY, "other"))
    for created in (mine, theirs):
        seen = await locked.get(f"{REQUESTS}/{created['id']}", headers=by_key(SERVICE_KEY))
        assert seen.status_code == httpx.codes.OK
    narrowed = await locked.get(f"{REQUESTS}/{mine['id']}", headers=by_key(SERVICE_KEY, "other"))
    assert_problem(narrowed, 404, "not_found")
    nobody = await locked.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY))
    assert_problem(nobody, 422, "invalid_request", pointer="/user_id")


async def test_key_configured_as_hash_authenticates_but_the_hash_does_not(locked: Caller) -> None:
    assert (await locked.get(REQUESTS, headers=by_key(HASHED_KEY))).status_code == httpx.codes.OK
    for wrong in (DIGEST, f"sha256${DIGEST}"):
        assert_problem(
            await locked.get(REQUESTS, headers=by_key(wrong)), 401, "invalid_credentials"
        )


async def test_key_wrong_with_a_valid_token_is_refused(locked: Caller) -> None:
    answer = await locked.get(REQUESTS, headers=token() | by_key("not-the-key-of-anybody"))
    assert_problem(answer, 401, "invalid_credentials")


@pytest.mark.parametrize(
    "keys",
    [
        "shop",
        "shop:service",
        "shop:service:",
        "shop:admin:a-key-of-enough-length",
        "shop:service:short",
        ":::",
        "shop:service:sha256$",
        "shop:service:sha256$nonsense",
    ],
)
def test_settings_invalid_keys_are_refused_at_start(keys: str) -> None:
    with pytest.raises(ValidationError, match="API key"):
        Settings(_env_file=None, api_keys=keys)  # type: ignore[arg-type,call-arg]


def test_settings_never_show_a_key() -> None:
    settings = Settings(_env_file=None, api_keys=KEYS, jwt_secret=JWT_SECRET)  # type: ignore[arg-type,call-arg]
    shown = f"{settings!r} {settings.model_dump()} {settings.keys()}"
    assert SERVICE_KEY not in shown
    assert JWT_SECRET not in shown


# End users


async def test_token_user_can_create_read_and_steer_own_requests(locked: Caller) -> None:
    user = f"user-{uuid4()}"
    mine = await made(locked, token(user))
    assert mine["user_id"] == user
    assert (
        await locked.get(f"{REQUESTS}/{mine['id']}", headers=token(user))
    ).status_code == httpx.codes.OK
    listed = (await locked.get(REQUESTS, headers=token(user))).json()["items"]
    assert [item["id"] for item in listed] == [mine["id"]]
    assert (await locked.post(f"{REQUESTS}/{mine['id']}/cancel", headers=token(user))).is_success
    assert (await made(locked, token(user), user_id=user))["user_id"] == user
    assert (await made(locked, token(user) | {"X-User-ID": user}))["user_id"] == user


@pytest.mark.parametrize(
    ("method", "action", "body"),
    [
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", "/stream", None),
        ("POST", "/select-sample", {"selected_sample_id": "a"}),
        ("POST", "/regenerate-samples", None),
        ("POST", "/retry", None),
        ("POST", "/cancel", None),
    ],
)
async def test_token_request_of_another_user_is_not_found(
    locked: Caller, method: str, action: str, body: dict[str, Any] | None
) -> None:
    foreign = await made(locked, token("other"))
    before = await Footprint.of(locked.test_app)
    answer = await locked.request(
        method, f"{REQUESTS}/{foreign['id']}{action}", json=body, headers=token()
    )
    assert_problem(answer, 404, "not_found")
    hidden = await locked.get(REQUESTS, params={"user_id": "other"}, headers=token())
    assert hidden.json()["items"] == []
    assert await Footprint.of(locked.test_app) == before


async def test_token_naming_another_user_is_refused(locked: Caller) -> None:
    before = await Footprint.of(locked.test_app)
    for path in (REQUESTS, f"{REQUESTS}/quote"):
        answer = await locked.post(path, json=PLAIN | {"user_id": "other"}, headers=token())
        assert_problem(answer, 403, "user_mismatch")
    assert_problem(
        await locked.get(REQUESTS, headers=token() | {"X-User-ID": "other"}), 403, "user_mismatch"
    )
    assert await Footprint.of(locked.test_app) == before


async def test_token_with_operator_role_sees_all_and_runs_operations(locked: Caller) -> None:
    foreign = await made(locked, token("other"))
    operator = token("alice", roles=["operator"])
    assert (
        await locked.get(f"{REQUESTS}/{foreign['id']}", headers=operator)
    ).status_code == httpx.codes.OK
    assert (
        await locked.get(f"{OPERATIONS}/invariants", headers=operator)
    ).status_code == httpx.codes.OK
    narrowed = await locked.get(
        f"{REQUESTS}/{foreign['id']}", headers=operator | {"X-User-ID": "user"}
    )
    assert_problem(narrowed, 404, "not_found")


@pytest.mark.parametrize(
    "roles",
    [
        None,
        "operator",
        [],
        ["user"],
        {"operator": True},
        ["Operator"],
        ["operators"],
        [["operator"]],
        1,
        True,
    ],
)
async def test_token_with_similar_role_is_no_operator(locked: Caller, roles: object) -> None:
    answer = await locked.get(f"{OPERATIONS}/invariants", headers=token(roles=roles))
    document = assert_problem(answer, 403, "forbidden")
    assert "operator" in document["detail"]


async def test_credentials_of_an_unconfigured_kind_are_refused(
    make_shared: Callable[..., Awaitable[Caller]],
) -> None:
    keys_only = await make_shared(api_keys=KEYS)
    assert_problem(await keys_only.get(REQUESTS, headers=token()), 401, "invalid_credentials")
    assert_problem(
        await keys_only.get(REQUESTS, headers=token(secret=SERVICE_KEY * 2)),
        401,
        "invalid_credentials",
    )
    tokens_only = await make_shared(jwt_secret=JWT_SECRET)
    assert_problem(
        await tokens_only.get(REQUESTS, headers=by_key(SERVICE_KEY)), 401, "invalid_credentials"
    )
    assert (await tokens_only.get(REQUESTS, headers=token())).status_code == httpx.codes.OK


# Key sets


@dataclass
class KeySet:
    """A key set on a local server, its private keys, and its behaviour."""

    url: str = ""
    rsa_key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(65537, 2048)
    )
    ec_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    body: bytes = b""
    status: int = 200
    asked: int = 0

    def publish(self) -> None:
        """Publish the public keys."""
        keys = [
            json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa_key.public_key()))
            | {"kid": "r1", "use": "sig"},
            json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.ec_key.public_key()))
            | {"kid": "e1", "use": "sig"},
        ]
        self.body, self.status = json.dumps({"keys": keys}).encode(), 200

    @property
    def public_pem(self) -> bytes:
        """Return the public RSA key as text."""
        return self.rsa_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@pytest.fixture(scope="module")
def key_set() -> Iterator[KeySet]:
    """A server with a key set."""
    keys = KeySet()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.asked += 1
            self.send_response(keys.status)
            self.send_header("Content-Length", str(len(keys.body)))
            self.end_headers()
            self.wfile.write(keys.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    keys.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    yield keys
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def by_key_set(make_shared: Callable[..., Awaitable[Caller]], key_set: KeySet) -> Caller:
    """A client of a service that accepts only the key set; new, so that nothing is cached."""
    key_set.publish()
    return await make_shared(jwks_url=key_set.url, jwt_audience="aigen")


async def test_token_signed_by_the_key_set_authenticates(
    by_key_set: Caller, key_set: KeySet
) -> None:
    signers: tuple[tuple[Any, str, str], ...] = (
        (key_set.rsa_key, "RS256", "r1"),
        (key_set.ec_key, "ES256", "e1"),
    )
    for secret, algorithm, kid in signers:
        headers = token(secret=secret, algorithm=algorithm, kid=kid, aud="aigen")
        assert (await by_key_set.get(REQUESTS, headers=headers)).status_code == httpx.codes.OK


async def test_key_set_is_fetched_once_for_many_calls(by_key_set: Caller, key_set: KeySet) -> None:
    before = key_set.asked
    headers = token(secret=key_set.rsa_key, algorithm="RS256", kid="r1", aud="aigen")
    answers = await asyncio.gather(*(by_key_set.get(REQUESTS, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert key_set.asked == before + 1


async def test_key_set_unknown_key_ids_cause_no_repeated_fetches(
    by_key_set: Caller, key_set: KeySet
) -> None:
    headers = token(secret=key_set.rsa_key, algorithm="RS256", kid="r1", aud="aigen")
    assert (await by_key_set.get(REQUESTS, headers=headers)).status_code == httpx.codes.OK
    before = key_set.asked
    for _ in range(5):
        forged = token(secret=key_set.rsa_key, algorithm="RS256", kid=str(uuid4()), aud="aigen")
        assert_problem(await by_key_set.get(REQUESTS, headers=forged), 401, "invalid_credentials")
    assert key_set.asked <= before + 1


def _confused(keys: KeySet, named: str) -> dict[str, str]:
    """Return a token signed with the public key as HMAC secret."""
    part = jwt.utils.base64url_encode
    head = part(json.dumps({"alg": named, "typ": "JWT", "kid": "r1"}).encode())
    body = part(json.dumps({"sub": "user", "aud": "aigen", "exp": int(time.time()) + 600}).encode())
    signature = part(hmac.digest(keys.public_pem, head + b"." + body, hashlib.sha256))
    return {"Authorization": f"Bearer {(head + b'.' + body + b'.' + signature).decode()}"}


FORGED: dict[str, Callable[[KeySet], dict[str, str]]] = {
    "signed by somebody else": lambda _keys: token(
        secret=rsa.generate_private_key(65537, 2048), algorithm="RS256", kid="r1", aud="aigen"
    ),
    "another audience": lambda keys: token(
        secret=keys.rsa_key, algorithm="RS256", kid="r1", aud="another"
    ),
    "no audience": lambda keys: token(secret=keys.rsa_key, algorithm="RS256", kid="r1"),
    "no kid": lambda keys: token(secret=keys.rsa_key, algorithm="RS256", aud="aigen"),
    "the kid of another kind of key": lambda keys: token(
        secret=keys.rsa_key, algorithm="RS256", kid="e1", aud="aigen"
    ),
    "HS256 with the public key": lambda keys: _confused(keys, "HS256"),
    "RS256 in name, HS256 in deed": lambda keys: _confused(keys, "RS256"),
    "an algorithm not asked for": lambda keys: token(
        secret=keys.rsa_key, algorithm="PS256", kid="r1", aud="aigen"
    ),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_token_forged_for_the_key_set_is_refused(
    by_key_set: Caller, key_set: KeySet, kind: str
) -> None:
    answer = await by_key_set.get(REQUESTS, headers=FORGED[kind](key_set))
    assert_problem(answer, 401, "invalid_credentials")


async def test_token_signed_with_the_public_key_as_secret_is_refused(
    make_shared: Callable[..., Awaitable[Caller]], key_set: KeySet
) -> None:
    key_set.publish()
    caller = await make_shared(jwks_url=key_set.url, jwt_secret=JWT_SECRET, jwt_audience="aigen")
    for named in ("HS256", "RS256"):
        answer = await caller.get(REQUESTS, headers=_confused(key_set, named))
        assert_problem(answer, 401, "invalid_credentials")
    assert (await caller.get(REQUESTS, headers=token(aud="aigen"))).status_code == httpx.codes.OK
    signed = token(secret=key_set.rsa_key, algorithm="RS256", kid="r1", aud="aigen")
    assert (await caller.get(REQUESTS, headers=signed)).status_code == httpx.codes.OK


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"{}"), (200, b"<html>down for maintenance</html>"), (200, b'{"keys": []}')],
)
async def test_key_set_unreadable_is_503(
    by_key_set: Caller, key_set: KeySet, status: int, body: bytes
) -> None:
    headers = token(secret=key_set.rsa_key, algorithm="RS256", kid="r1", aud="aigen")
    key_set.status, key_set.body = status, body
    document = assert_problem(
        await by_key_set.get(REQUESTS, headers=headers), 503, "service_unavailable"
    )
    assert document["retryable"]
    key_set.publish()
    assert (await by_key_set.get(REQUESTS, headers=headers)).status_code == httpx.codes.OK


# Every route

PUBLIC = {
    "/health",
    "/ready",
    "/metrics",
    "/docs",
    "/docs/{name}",
    "/openapi.json",
    "/problems/{code}",
    "/assets/{name}",
    "/",
    "/sign-in",
    "/static/web/{digest}/{name:path}",
}
PAGES = ("/studio", "/console", "/sign-in/", "/sign-out")
CALLBACK = "/api/v1/n8n-callbacks/"


def addresses(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Return method and path of every route."""
    for route in routes:
        if hasattr(route, "methods"):
            yield from ((method, route.path) for method in sorted(route.methods - {"HEAD"}))
        else:
            included = route.original_router
            yield from addresses(included.routes)


def filled(path: str) -> str:
    """Return the path with a value for each parameter."""
    return re.sub(r"\{[a-z_]+(:path)?\}", NOBODY, path.replace("{message_id}", "1"))


async def test_every_route_is_public_on_purpose_or_refuses_anonymous_callers(
    locked: Caller,
) -> None:
    described = (await locked.get("/openapi.json")).json()["paths"]
    found = set(addresses(locked.app.routes))
    assert found >= {
        (method.upper(), path) for path, entries in described.items() for method in entries
    }
    guarded = {
        (method, path)
        for method, path in found
        if path not in PUBLIC and not path.startswith(CALLBACK)
    }
    assert {path for _, path in found if path in PUBLIC} == PUBLIC
    assert len(guarded) > 15
    for method, path in sorted(guarded):
        for headers in (
            {},
            {"X-User-ID": "user"},
            {"X-Forwarded-User": "root"},
            {"Cookie": "aigen_session=s1.W10.x"},
        ):
            answer = await locked.request(method, filled(path), headers=headers)
            if path.startswith(PAGES):
                assert_sign_in(answer, method, path)
                continue
            assert answer.status_code == httpx.codes.UNAUTHORIZED, (
                f"{method} {path}: {answer.status_code}"
            )
            assert_problem(answer, 401, "authentication_required")


def assert_sign_in(answer: httpx.Response, method: str, path: str) -> None:
    """Check that a page redirects anonymous visitors to the sign-in and rejects their forms."""
    if method == "GET":
        assert answer.status_code == httpx.codes.SEE_OTHER, f"{method} {path}: {answer.status_code}"
        assert (answer.headers["location"].partition("?")[0], answer.content) == ("/sign-in", b"")
    else:
        assert answer.status_code == httpx.codes.UNAUTHORIZED, (
            f"{method} {path}: {answer.status_code}"
        )
        assert "Please sign in" in answer.text


async def test_console_pages_refuse_other_roles(locked: Caller) -> None:
    sessions = locked.app.state.web_services.sessions
    service = sessions.create_from_key(
        locked.app.state.services.authenticator.key(SERVICE_KEY, ""), "user"
    )
    for method, path in sorted(addresses(locked.app.routes)):
        if path.startswith("/console"):
            headers = {
                "Cookie": f"{sessions.cookie}={sessions.seal(service)}",
                "X-CSRF-Token": sessions.create_csrf_token(service),
            }
            answer = await locked.request(method, filled(path), headers=headers)
            assert answer.status_code == httpx.codes.FORBIDDEN, (
                f"{method} {path}: {answer.status_code}"
            )


async def test_callbacks_require_the_job_token_and_refuse_service_keys(locked: Caller) -> None:
    kinds = {path for _, path in addresses(locked.app.routes) if path.startswith(CALLBACK)}
    assert len(kinds) == 6
    body = {
        "generation_request_id": NOBODY,
        "job_id": NOBODY,
        "samples": [],
        "error_code": "x",
        "final_asset": {
            "asset_id": "a",
            "url": "https://s/a",
            "resolution": "1x1",
            "format": "png",
        },
    }
    for path in sorted(kinds):
        for headers in ({}, by_key(OPERATOR_KEY), token(roles=["operator"])):
            answer = await locked.post(path, params={"job_id": NOBODY}, json=body, headers=headers)
            assert_problem(answer, 401, "invalid_credentials")


async def test_operations_refuse_other_roles(locked: Caller) -> None:
    operations = [
        (method, path)
        for method, path in addresses(locked.app.routes)
        if path.startswith(OPERATIONS)
    ]
    assert len(operations) >= 9
    before = await Footprint.of(locked.test_app)
    for method, path in operations:
        for headers in (by_key(SERVICE_KEY), by_key(HASHED_KEY, "user"), token()):
            assert_problem(
                await locked.request(method, filled(path), headers=headers), 403, "forbidden"
            )
        assert_problem(await locked.request(method, filled(path)), 401, "authentication_required")
        allowed = await locked.request(method, filled(path), headers=by_key(OPERATOR_KEY))
        assert allowed.status_code in {200, 404, 422}, f"{method} {path}: {allowed.text}"
    assert await Footprint.of(locked.test_app) == before


async def test_tokens_of_two_secrets_are_accepted_while_rotating(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    new = "the next secret of the end users' tokens"
    caller = await make_client(jwt_secret=f"{JWT_SECRET},{new}")
    for secret in (JWT_SECRET, new):
        answer = await caller.get(REQUESTS, headers=token(secret=secret))
        assert answer.status_code == httpx.codes.OK
        expired = await caller.get(REQUESTS, headers=token(secret=secret, exp=1))
        assert_problem(expired, 401, "token_expired")
    both = f"{JWT_SECRET},{new}"
    for secret in (both, "a third secret of the end users' tokens"):
        refused = await caller.get(REQUESTS, headers=token(secret=secret))
        assert_problem(refused, 401, "invalid_credentials")


# Limits


class Minute:
    """A clock in seconds that the test advances."""

    def __init__(self) -> None:
        self.at = 600.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.at


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> Minute:
    """The clock of the limits, at the beginning of a window."""
    clock = Minute()
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


async def test_rate_limit_exceeded_is_429_with_retry_after(
    make_client: Callable[..., Awaitable[Caller]], minute: Minute
) -> None:
    caller = await make_client(api_keys=KEYS, rate_limit_per_minute=3)
    await caller.test_app.grant("user", 0, "pro")
    left = []
    for _ in range(3):
        answer = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "user"))
        assert answer.status_code == httpx.codes.ACCEPTED
        assert answer.headers["ratelimit-policy"] == '"default";q=3;w=60'
        match = re.fullmatch(r'"default";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
        assert match is not None
        assert 0 < int(match[2]) <= 60
        left.append(int(match[1]))
    assert left == [2, 1, 0]
    refused = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "user"))
    document = assert_problem(refused, 429, "rate_limited")
    assert document["retryable"]
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert f"{refused.headers['retry-after']} seconds" in document["detail"]
    assert refused.headers["ratelimit"].startswith('"default";r=0;')
    assert (await Footprint.of(caller.test_app)).rows["generation_requests"] == 3
    reading = await caller.get(REQUESTS, headers=by_key(SERVICE_KEY))
    assert (reading.status_code, "ratelimit" in reading.headers) == (200, False)
    other = await caller.post(REQUESTS, json=PLAIN, headers=by_key(HASHED_KEY, "user"))
    assert other.status_code == httpx.codes.ACCEPTED
    minute.at += int(refused.headers["retry-after"])
    after = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "user"))
    assert after.status_code == httpx.codes.ACCEPTED


async def test_user_with_the_name_of_a_service_shares_neither_its_limit_nor_its_keys(
    make_client: Callable[..., Awaitable[Caller]], minute: Minute
) -> None:
    caller = await make_client(api_keys=KEYS, jwt_secret=JWT_SECRET, rate_limit_per_minute=2)
    await caller.test_app.grant("shop", 0, "pro")
    headers = {"Idempotency-Key": "order-7"}
    theirs = await caller.post(REQUESTS, json=PLAIN, headers=token("shop") | headers)
    for _ in range(2):
        last = await caller.post(REQUESTS, json=PLAIN, headers=token("shop"))
    assert_problem(last, 429, "rate_limited")
    ours = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "shop") | headers)
    assert ours.status_code == httpx.codes.ACCEPTED, ours.text
    assert ours.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize(
    "headers", [{}, {"X-Internal-API-Key": "wrong"}, {"Authorization": "Bearer a.b.c"}]
)
async def test_body_of_an_unauthenticated_caller_is_not_read(
    locked: Caller, headers: dict[str, str]
) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(3):
            read += 1
            yield b'{"user_id": '

    headers |= {"Content-Type": "application/json"}
    for path in (
        REQUESTS,
        f"{REQUESTS}/quote",
        f"{REQUESTS}/{uuid4()}/cancel",
        "/api/v1/operations/credits/grants",
    ):
        answer = await locked.post(path, content=body(), headers=headers)
        assert answer.status_code == httpx.codes.UNAUTHORIZED, path
    assert read == 0
