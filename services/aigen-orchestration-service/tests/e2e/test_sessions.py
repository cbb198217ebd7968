"""Access to the pages: sign-in and sign-out, forged forms and cookies, headers of every page."""

import base64
import hmac
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest

from creativeflow.services.aigeneration.api.auth import Principal
from creativeflow.services.aigeneration.web.live import end_with_session
from creativeflow.services.aigeneration.web.sessions import LIFETIME
from tests.e2e.journey import REQUESTS, Caller
from tests.support.html_client import ORIGIN, Browser, PageForm

SERVICE_KEY, OPERATOR_KEY = "the-key-of-the-shop", "the-key-of-the-operator"
JWT_SECRET = "the secret of the end users' tokens"
PLATFORM = "https://app.example.com"
LOCKED = {
    "api_keys": f"shop:service:{SERVICE_KEY},duty:operator:{OPERATOR_KEY}",
    "jwt_secret": JWT_SECRET,
    "web_origins": PLATFORM,
}
COOKIE = "aigen_session"
Make = Callable[..., Awaitable[Caller]]


def create_token(sub: str = "user", lasts: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": sub, "exp": int(time.time() + lasts), **claims}, JWT_SECRET, "HS256")


@pytest.fixture
async def locked(make_client: Make) -> Browser:
    """A browser for a service with API keys and user tokens."""
    return Browser((await make_client(**LOCKED)).app)


@pytest.fixture
async def open_service(client: Caller) -> Browser:
    """A browser for a service without authentication."""
    return Browser(client.app)


async def sign_in(browser: Browser, **fields: str) -> None:
    page = await browser.open("/sign-in")
    after = await browser.submit(
        page.forms[0], **({"token": None} if "key" in fields else {}), **fields
    )
    assert after.status == httpx.codes.OK, after.text
    assert browser.cookies.get(COOKIE)


# Sign-in


async def test_page_without_session_redirects_to_sign_in_and_back(locked: Browser) -> None:
    form_page = await locked.open("/studio?prompt=a+cat")
    assert (form_page.status, str(form_page.response.url)) == (
        200,
        f"{ORIGIN}/sign-in?next=/studio%3Fprompt%3Da%2Bcat",
    )
    after = await locked.submit(form_page.forms[0], token=create_token())
    assert str(after.response.url) == f"{ORIGIN}/studio?prompt=a+cat"


async def test_sign_in_with_token_cannot_switch_user(locked: Browser) -> None:
    await sign_in(locked, token=create_token("ada"))
    page = await locked.open("/studio")
    assert "Signed in as ada" in page.text
    refused = await locked.submit(
        PageForm("/sign-in/user", "post", page.form("/sign-out").fields), user_id="bob"
    )
    assert refused.status == httpx.codes.FORBIDDEN
    assert "user" not in page.actions


async def test_sign_in_with_key_can_switch_user(locked: Browser) -> None:
    await sign_in(locked, key=SERVICE_KEY, user_id="ada")
    page = await locked.open("/studio")
    assert "Signed in as shop" in page.text
    switched = await locked.submit(page.form("/sign-in/user"), user_id="bob")
    assert switched.form("/sign-in/user").fields["user_id"] == "bob"


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "not-a-key-of-anybody", "user_id": "ada"},
        {"token": "no.token.atall"},
        {"token": "x" * 9000},
        {"key": SERVICE_KEY, "user_id": ""},
        {"key": SERVICE_KEY, "user_id": "x" * 201},
        {},
    ],
)
async def test_sign_in_invalid_credentials_shows_form_again(
    locked: Browser, fields: dict[str, str]
) -> None:
    form_page = await locked.open("/sign-in?next=/studio?x=1")
    refused = await locked.submit(form_page.forms[0], **({"token": None} | fields))
    assert refused.status in {401, 422}
    assert COOKIE not in locked.cookies
    assert refused.forms[0].fields["next"] == "/studio?x=1"
    assert "Check" in refused.text or "Enter the user to act as." in refused.text


@pytest.mark.parametrize(
    "where", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
async def test_sign_in_foreign_next_path_is_ignored(locked: Browser, where: str) -> None:
    form_page = await locked.open("/sign-in", params={"next": where})
    after = await locked.submit(form_page.forms[0], token=create_token())
    assert str(after.response.url) == f"{ORIGIN}/studio"


async def test_sign_out_ends_session(locked: Browser) -> None:
    await sign_in(locked, token=create_token())
    await locked.submit((await locked.open("/studio")).form("/sign-out"))
    assert str((await locked.open("/studio")).response.url).startswith(f"{ORIGIN}/sign-in")


# Hand-over


async def test_hand_over_only_from_configured_origin_is_accepted(locked: Browser) -> None:
    hand_over = PageForm("/sign-in", "post", {"token": create_token("ada"), "next": "/studio"})
    for origin in ("https://evil.example", "null"):
        refused = await locked.submit(
            hand_over, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        )
        assert (refused.status, COOKIE in locked.cookies) == (403, False)
    without_origin = await locked.post("/sign-in", data=hand_over.fields)
    assert (without_origin.status_code, COOKIE in locked.cookies) == (403, False)
    arrived = await locked.submit(
        hand_over, headers={"Origin": PLATFORM, "Sec-Fetch-Site": "cross-site"}
    )
    assert str(arrived.response.url) == f"{ORIGIN}/studio"
    assert "Signed in as ada" in arrived.text


# The cookie


async def test_session_cookie_has_secure_attributes(make_client: Make) -> None:
    plain = Browser((await make_client(**LOCKED)).app)
    response = await plain.post(
        "/sign-in",
        data={"token": create_token()},
        headers={"Origin": ORIGIN},
        follow_redirects=False,
    )
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= {part.strip() for part in cookie.split(";")}
    public = Browser((await make_client(**LOCKED, public_url="https://studio.example.com")).app)
    response = await public.post(
        "/sign-in",
        data={"token": create_token()},
        headers={"Origin": "https://studio.example.com"},
        follow_redirects=False,
    )
    assert response.headers["set-cookie"].startswith(f"__Host-{COOKIE}=")
    assert "Secure" in response.headers["set-cookie"]


async def test_session_after_lifetime_or_token_expiry_ends(make_client: Make) -> None:
    caller = await make_client(**LOCKED)
    browser = Browser(caller.app)
    caller.app.state.web_services.sessions._now = caller.test_app.clock  # noqa: SLF001 - the test controls the clock
    await sign_in(browser, key=SERVICE_KEY, user_id="ada")
    caller.test_app.clock.advance(seconds=LIFETIME.total_seconds() - 60)
    assert str((await browser.open("/studio")).response.url) == f"{ORIGIN}/studio"
    caller.test_app.clock.advance(minutes=2)
    assert "/sign-in" in str((await browser.open("/studio")).response.url)
    sessions = caller.app.state.web_services.sessions
    ends = caller.test_app.clock() + timedelta(minutes=10)
    principal = replace(sessions.create_guest().to_user_principal(), expires_at=ends)
    assert sessions.create_from_token(principal, "secret:any").expires_at == ends


@pytest.mark.parametrize(
    "expires", [10**12, 10**18, 10**30, "9" * 50, "1e400", 253402300799, 1e308]
)
async def test_session_of_a_token_without_a_near_end_lasts_its_lifetime(
    make_client: Make, expires: Any
) -> None:
    caller = await make_client(**LOCKED)
    browser = Browser(caller.app)
    if expires == "1e400":  # JSON's infinity, which the encoder does not write
        marked = create_token(exp=1.5).split(".")
        payload = base64.urlsafe_b64decode(marked[1] + "==").replace(b"1.5", b"1e400")
        marked[1] = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        message = f"{marked[0]}.{marked[1]}".encode()
        signed = hmac.digest(JWT_SECRET.encode(), message, "sha256")
        token = f"{message.decode()}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"
    else:
        token = jwt.encode({"sub": "user", "exp": expires}, JWT_SECRET, "HS256")
    form = (await browser.open("/sign-in")).forms[0]
    page = await browser.submit(form, token=token, key=None)
    called = await caller.get(REQUESTS, headers={"Authorization": f"Bearer {token}"})
    if expires == "1e400":
        assert (page.status, called.status_code) == (401, 401)
    else:
        assert str(page.response.url) == f"{ORIGIN}/studio"
        assert called.status_code == httpx.codes.OK


@pytest.mark.parametrize("start", [b"[", b'{"alg":'])
async def test_sign_in_with_a_token_nested_without_end_is_refused(
    make_client: Make, start: bytes
) -> None:
    caller = await make_client(**LOCKED)
    header = base64.urlsafe_b64encode(start * (6_000 // len(start))).rstrip(b"=").decode()
    form = (await Browser(caller.app).open("/sign-in")).forms[0]
    page = await Browser(caller.app).submit(form, token=f"{header[:7_000]}.e30.x", key=None)
    assert page.status == httpx.codes.UNAUTHORIZED
    called = await caller.get(REQUESTS, headers={"Authorization": f"Bearer {header}.e30.x"})
    assert called.status_code == httpx.codes.UNAUTHORIZED


async def test_sign_out_ends_the_session_in_every_process_and_with_every_cookie(
    make_client: Make,
) -> None:
    one, other = await make_client(**LOCKED), await make_client(**LOCKED)
    browser = Browser(one.app)
    await sign_in(browser, key=SERVICE_KEY, user_id="ada")
    cookies = [browser.cookies[COOKIE]]
    page = await browser.open("/studio")
    await browser.submit(page.form("/sign-in/user"), user_id="grace")
    cookies.append(browser.cookies[COOKIE])
    apart = Browser(one.app)
    await sign_in(apart, key=SERVICE_KEY, user_id="ada")
    page = await browser.open("/studio")
    await browser.submit(page.form("/sign-out"))
    for cookie in cookies:
        for caller in (one, other):
            kept = Browser(caller.app)
            kept.cookies.set(COOKIE, cookie)
            assert "/sign-in" in str((await kept.open("/studio")).response.url)
    assert str((await apart.open("/studio")).response.url) == f"{ORIGIN}/studio"
    one.test_app.clock.advance(seconds=LIFETIME.total_seconds() + 60)
    await one.test_app.service.revoked_sessions.forget(one.test_app.clock())
    assert await one.test_app.database.fetchval("SELECT count(*) FROM revoked_sessions") == 0


async def test_session_of_a_token_ends_with_the_secret_that_signed_it(make_client: Make) -> None:
    browser = Browser((await make_client(**LOCKED)).app)
    await sign_in(browser, token=create_token())
    new = "the next secret of the end users' tokens"
    for secrets, path in ((f"{new},{JWT_SECRET}", "/studio"), (new, "/sign-in?next=/studio")):
        other = Browser((await make_client(**LOCKED | {"jwt_secret": secrets})).app)
        other.cookies.set(COOKIE, browser.cookies[COOKIE])
        url = str((await other.open("/studio")).response.url)
        assert url.removeprefix(ORIGIN) == path


async def test_stream_of_a_page_ends_with_the_sign_out(make_client: Make) -> None:
    caller = await make_client(**LOCKED)
    sessions, now = caller.app.state.web_services.sessions, caller.test_app.clock
    principal = Principal(name="user", role="user", user_id="user", expires_at=None)
    session = sessions.create_from_token(
        principal, (await caller.app.state.services.authenticator.verify(create_token(), "")).signer
    )
    assert now() < session.expires_at

    async def beat() -> AsyncIterator[bytes]:
        while True:
            yield b": still here\n\n"

    events = end_with_session(beat(), sessions, session)
    assert await anext(events) == b": still here\n\n"
    await sessions.revoke(session)
    assert [event async for event in events] == []


async def test_session_removed_key_ends_it_but_rotated_secret_does_not(make_client: Make) -> None:
    browser = Browser((await make_client(**LOCKED)).app)
    await sign_in(browser, key=SERVICE_KEY, user_id="ada")
    cookie = browser.cookies[COOKIE]

    async def open_studio_with(**changes: object) -> str:
        other = Browser((await make_client(**(LOCKED | changes))).app)
        other.cookies.set(COOKIE, cookie)
        return str((await other.open("/studio")).response.url).removeprefix(ORIGIN)

    rotated = "a-new-secret-of-enough-length,test-secret-of-enough-length"
    assert await open_studio_with(callback_secret=rotated) == "/studio"
    assert (
        await open_studio_with(callback_secret="a-new-secret-of-enough-length")
        == "/sign-in?next=/studio"
    )
    assert (
        await open_studio_with(api_keys=f"duty:operator:{OPERATOR_KEY}") == "/sign-in?next=/studio"
    )
    assert (
        await open_studio_with(api_keys="shop:service:another-key-of-the-shop")
        == "/sign-in?next=/studio"
    )
    assert (
        await open_studio_with(api_keys=f"shop:operator:{SERVICE_KEY}") == "/sign-in?next=/studio"
    )


async def test_session_forged_or_foreign_cookie_is_rejected(
    locked: Browser, client: Caller
) -> None:
    await sign_in(locked, token=create_token("ada"))
    body, seal = locked.cookies[COOKIE].rsplit(".", 1)
    assert body.startswith(".")  # compressed
    payload = zlib.decompress(base64.urlsafe_b64decode(body + "=="))
    operator = payload.replace(b'"user"', b'"operator"')
    assert operator != payload
    forged = f"{base64.urlsafe_b64encode(operator).rstrip(b'=').decode()}.{seal}"
    foreign = client.app.state.web_services.sessions
    for wrong in (
        forged,
        f"{body}.",
        f".{seal}",
        "..",
        "nonsense",
        f"s1.{body}.{seal}",
        foreign.seal(foreign.create_guest()),
    ):
        locked.cookies.clear()
        locked.cookies.set(COOKIE, wrong)
        assert "/sign-in" in str((await locked.open("/studio")).response.url), wrong


# Forms


async def test_form_forged_is_refused_with_page(open_service: Browser) -> None:
    page = await open_service.open("/studio")
    form = page.form("/sign-in/user")
    forgeries: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"csrf": None}, {}),
        ({"csrf": ""}, {}),
        ({"csrf": "A" * 43}, {}),
        ({}, {"Origin": "https://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
        ({}, {"Sec-Fetch-Site": "same-site"}),
    ]
    for fields, headers in forgeries:
        refused = await open_service.submit(form, headers=headers, user_id="mallory", **fields)
        assert refused.status == httpx.codes.FORBIDDEN, (fields, headers)
        assert "was not sent by a page of this session" in refused.text
        assert "mallory" not in (await open_service.open("/studio")).response.text
    accepted = await open_service.submit(form, user_id="ada")
    assert accepted.form("/sign-in/user").fields["user_id"] == "ada"


async def test_form_csrf_token_of_other_session_is_refused(client: Caller) -> None:
    one, other = Browser(client.app), Browser(client.app)
    foreign = (await other.open("/studio")).form("/sign-in/user")
    await one.open("/studio")
    assert (await one.submit(foreign, user_id="mallory")).status == httpx.codes.FORBIDDEN


async def test_form_malformed_body_is_refused_with_page(open_service: Browser) -> None:
    csrf = (await open_service.open("/studio")).form("/sign-in/user").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Origin": ORIGIN}
    for response in (
        await open_service.post("/sign-in/user", json={"user_id": "ada"}, headers=headers),
        await open_service.post(
            "/sign-in/user", data={str(i): "x" for i in range(200)}, headers=headers
        ),
        await open_service.post(
            "/sign-in/user",
            content=b"user_id=%ff%fe",
            headers=headers | {"Content-Type": "application/x-www-form-urlencoded"},
        ),
    ):
        assert response.status_code in {415, 422}
        assert response.headers["content-type"].startswith("text/html")


# Open service


async def test_open_service_shows_banner_and_rejects_foreign_host(
    open_service: Browser, client: Caller
) -> None:
    page = await open_service.open("/")
    assert str(page.response.url) == f"{ORIGIN}/studio"
    assert "Open: anyone on this machine is an operator" in page.text
    assert page.form("/sign-in/user").fields["user_id"] == "demo"
    for name in ("http://localhost:8000", "http://[::1]:8000"):
        assert (await Browser(client.app, name).open("/studio")).status == httpx.codes.OK
    rebound = await Browser(client.app, "http://rebound.example:8000").open("/studio")
    assert (rebound.status, "Host not allowed" in rebound.text) == (403, True)


async def test_pages_above_rate_limit_are_refused(make_client: Make) -> None:
    browser = Browser((await make_client(rate_limit_per_minute=2)).app)
    form = (await browser.open("/studio")).form("/studio/requests")
    form.action = "/studio/quote"
    statuses = [(await browser.submit(form)).status for _ in range(3)]
    assert statuses == [200, 200, 429]


# Every page


async def test_pages_any_have_strict_headers_and_nothing_inline(open_service: Browser) -> None:
    for path in ("/studio", "/studio/nowhere", "/sign-in"):
        page = await open_service.open(path)
        policy = dict(
            part.split(" ", 1)
            for part in page.response.headers["content-security-policy"].split("; ")
        )
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self' data: https:",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        assert page.inline == []
        assert page.response.headers["cache-control"] == "no-store"
        assert page.response.headers["referrer-policy"] == "same-origin"
        assert page.response.headers["x-content-type-options"] == "nosniff"
        assert page.response.headers["x-request-id"] in page.text


async def test_not_found_below_page_prefix_is_page_else_problem(open_service: Browser) -> None:
    missing = await open_service.open("/studio/nowhere")
    assert (missing.status, "Page not found" in missing.text) == (404, True)
    assert "/studio" in missing.links
    problem = await open_service.get("/studiously")
    assert problem.headers["content-type"] == "application/problem+json"


async def test_internal_error_renders_page_without_details(
    open_service: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(client.app.state.services.queries, "page", broken)
    page = await open_service.open("/studio")
    assert page.status == httpx.codes.INTERNAL_SERVER_ERROR
    assert "Something went wrong on our side" in page.text
    assert "Try again" in page.text
    assert "secret inside" not in page.response.text
    assert page.response.headers["content-security-policy"].startswith("default-src 'none'")


async def test_static_files_are_immutable_and_compressed(open_service: Browser) -> None:
    page = await open_service.open("/studio")
    found = re.findall(r'(?:src|href)="(/static/web/[^"]+)"', page.response.text)
    assert len(found) >= 4
    for path in found:
        response = await open_service.get(path)
        assert response.status_code == httpx.codes.OK
        assert "immutable" in response.headers["cache-control"]
        again = await open_service.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        digest = path.split("/")[3]
        assert (
            await open_service.get(path.replace(digest, "0" * len(digest)))
        ).status_code == httpx.codes.NOT_FOUND
    style = next(path for path in found if path.endswith("style.css"))
    assert (await open_service.get(style)).headers["content-encoding"] == "gzip"
    assert (
        "content-encoding"
        not in (await open_service.get(style, headers={"Accept-Encoding": "br"})).headers
    )


async def test_page_with_part_header_returns_block_only(open_service: Browser) -> None:
    part = await open_service.open("/studio", headers={"X-Part": "title"})
    assert (part.response.text, part.response.headers["x-part"]) == ("Studio", "title")
    assert (
        "<html"
        in (await open_service.open("/studio", headers={"X-Part": "nonsense"})).response.text
    )
