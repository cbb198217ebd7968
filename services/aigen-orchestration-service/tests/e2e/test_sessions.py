"""Who may see the pages: signing in and out, forged forms, stale and foreign cookies, and what
every page carries.
"""

import base64
import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest

from creativeflow.services.aigeneration.web.sessions import LIFETIME
from tests.e2e.journey import Caller
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


def token(sub: str = "user", lasts: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": sub, "exp": int(time.time() + lasts), **claims}, JWT_SECRET, "HS256")


@pytest.fixture
async def locked(make_client: Make) -> Browser:
    """A browser at a service with keys and user tokens."""
    return Browser((await make_client(**LOCKED)).app)


@pytest.fixture
async def open_house(client: Caller) -> Browser:
    """A browser at a service with nothing configured."""
    return Browser(client.app)


async def signed_in(browser: Browser, **said: str) -> None:
    page = await browser.open("/sign-in")
    after = await browser.submit(
        page.forms[0], **({"token": None} if "key" in said else {}), **said
    )
    assert after.status == httpx.codes.OK, after.text
    assert browser.cookies.get(COOKIE)


# Signing in


async def test_a_stranger_is_led_to_the_sign_in_and_back_to_where_they_wanted_to_go(
    locked: Browser,
) -> None:
    asked = await locked.open("/studio?prompt=a+cat")
    assert (asked.status, str(asked.answer.url)) == (
        200,
        f"{ORIGIN}/sign-in?next=/studio%3Fprompt%3Da%2Bcat",
    )
    after = await locked.submit(asked.forms[0], token=token())
    assert str(after.answer.url) == f"{ORIGIN}/studio?prompt=a+cat"


async def test_a_user_signs_in_with_their_token_and_is_nobody_else(locked: Browser) -> None:
    await signed_in(locked, token=token("ada"))
    page = await locked.open("/studio")
    assert "Signed in as ada" in page.text
    refused = await locked.submit(
        PageForm("/sign-in/user", "post", page.form("/sign-out").fields), user_id="bob"
    )
    assert refused.status == httpx.codes.FORBIDDEN
    assert "user" not in page.actions


async def test_a_service_acts_for_the_user_it_names_and_for_another_after_that(
    locked: Browser,
) -> None:
    await signed_in(locked, key=SERVICE_KEY, user_id="ada")
    page = await locked.open("/studio")
    assert "Signed in as shop" in page.text
    switched = await locked.submit(page.form("/sign-in/user"), user_id="bob")
    assert switched.form("/sign-in/user").fields["user_id"] == "bob"


@pytest.mark.parametrize(
    "said",
    [
        {"key": "not-a-key-of-anybody", "user_id": "ada"},
        {"token": "no.token.atall"},
        {"token": "x" * 9000},
        {"key": SERVICE_KEY, "user_id": ""},
        {"key": SERVICE_KEY, "user_id": "x" * 201},
        {},
    ],
)
async def test_what_does_not_open_says_so_and_asks_again(
    locked: Browser, said: dict[str, str]
) -> None:
    asked = await locked.open("/sign-in?next=/studio?x=1")
    refused = await locked.submit(asked.forms[0], **({"token": None} | said))
    assert refused.status in {401, 422}
    assert COOKIE not in locked.cookies
    assert refused.forms[0].fields["next"] == "/studio?x=1"
    assert "Check" in refused.text or "Say for which user" in refused.text


@pytest.mark.parametrize(
    "where", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
async def test_signing_in_never_leads_away(locked: Browser, where: str) -> None:
    asked = await locked.open("/sign-in", params={"next": where})
    after = await locked.submit(asked.forms[0], token=token())
    assert str(after.answer.url) == f"{ORIGIN}/studio"


async def test_signing_out_ends_it(locked: Browser) -> None:
    await signed_in(locked, token=token())
    await locked.submit((await locked.open("/studio")).form("/sign-out"))
    assert str((await locked.open("/studio")).answer.url).startswith(f"{ORIGIN}/sign-in")


# Handing over


async def test_a_platform_hands_its_user_over_and_a_page_of_anybody_else_does_not(
    locked: Browser,
) -> None:
    handing = PageForm("/sign-in", "post", {"token": token("ada"), "next": "/studio"})
    for stranger in ("https://evil.example", "null"):
        refused = await locked.submit(
            handing, headers={"Origin": stranger, "Sec-Fetch-Site": "cross-site"}
        )
        assert (refused.status, COOKIE in locked.cookies) == (403, False)
    silent = await locked.post("/sign-in", data=handing.fields)
    assert (silent.status_code, COOKIE in locked.cookies) == (403, False)
    arrived = await locked.submit(
        handing, headers={"Origin": PLATFORM, "Sec-Fetch-Site": "cross-site"}
    )
    assert str(arrived.answer.url) == f"{ORIGIN}/studio"
    assert "Signed in as ada" in arrived.text


# The cookie


async def test_the_cookie_is_kept_from_scripts_and_goes_to_secure_hosts_only(
    make_client: Make,
) -> None:
    plain = Browser((await make_client(**LOCKED)).app)
    answer = await plain.post(
        "/sign-in", data={"token": token()}, headers={"Origin": ORIGIN}, follow_redirects=False
    )
    said = answer.headers["set-cookie"]
    assert said.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= {part.strip() for part in said.split(";")}
    behind = Browser((await make_client(**LOCKED, public_url="https://studio.example.com")).app)
    answer = await behind.post(
        "/sign-in",
        data={"token": token()},
        headers={"Origin": "https://studio.example.com"},
        follow_redirects=False,
    )
    assert answer.headers["set-cookie"].startswith(f"__Host-{COOKIE}=")
    assert "Secure" in answer.headers["set-cookie"]


async def test_a_session_ends_after_its_time_and_with_its_token(make_client: Make) -> None:
    caller = await make_client(**LOCKED)
    browser = Browser(caller.app)
    caller.app.state.sessions._now = caller.world.clock  # noqa: SLF001 - the tests' hand on the clock
    await signed_in(browser, key=SERVICE_KEY, user_id="ada")
    caller.world.clock.advance(seconds=LIFETIME.total_seconds() - 60)
    assert str((await browser.open("/studio")).answer.url) == f"{ORIGIN}/studio"
    caller.world.clock.advance(minutes=2)
    assert "/sign-in" in str((await browser.open("/studio")).answer.url)
    sessions = caller.app.state.sessions
    ends = caller.world.clock() + timedelta(minutes=10)
    assert sessions.of_token(sessions.guest().principal(), ends.timestamp()).expires_at <= ends


async def test_removing_a_key_ends_its_sessions_and_rotating_the_secret_does_not(
    make_client: Make,
) -> None:
    browser = Browser((await make_client(**LOCKED)).app)
    await signed_in(browser, key=SERVICE_KEY, user_id="ada")
    seal = browser.cookies[COOKIE]

    async def reached(**changes: object) -> str:
        other = Browser((await make_client(**(LOCKED | changes))).app)
        other.cookies.set(COOKIE, seal)
        return str((await other.open("/studio")).answer.url).removeprefix(ORIGIN)

    rotated = "a-new-secret-of-enough-length,test-secret-of-enough-length"
    assert await reached(callback_secret=rotated) == "/studio"
    assert await reached(callback_secret="a-new-secret-of-enough-length") == "/sign-in?next=/studio"
    assert await reached(api_keys=f"duty:operator:{OPERATOR_KEY}") == "/sign-in?next=/studio"
    assert await reached(api_keys="shop:service:another-key-of-the-shop") == "/sign-in?next=/studio"
    assert await reached(api_keys=f"shop:operator:{SERVICE_KEY}") == "/sign-in?next=/studio"


async def test_a_cookie_that_was_changed_or_made_elsewhere_opens_nothing(
    locked: Browser, client: Caller
) -> None:
    await signed_in(locked, token=token("ada"))
    version, body, seal = locked.cookies[COOKIE].split(".")
    said = base64.urlsafe_b64decode(body + "==").replace(b'"user"', b'"operator"')
    forged = f"{version}.{base64.urlsafe_b64encode(said).rstrip(b'=').decode()}.{seal}"
    guest = client.app.state.sessions
    for wrong in (
        forged,
        f"{version}.{body}.",
        "s1..",
        "nonsense",
        f"s2.{body}.{seal}",
        guest.seal(guest.guest()),
    ):
        locked.cookies.clear()
        locked.cookies.set(COOKIE, wrong)
        assert "/sign-in" in str((await locked.open("/studio")).answer.url), wrong


# Forms


async def test_a_forged_form_is_refused_in_plain_words(open_house: Browser) -> None:
    page = await open_house.open("/studio")
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
        refused = await open_house.submit(form, headers=headers, user_id="mallory", **fields)
        assert refused.status == httpx.codes.FORBIDDEN, (fields, headers)
        assert "did not come from a page of this session" in refused.text
        assert "mallory" not in (await open_house.open("/studio")).answer.text
    taken = await open_house.submit(form, user_id="ada")
    assert taken.form("/sign-in/user").fields["user_id"] == "ada"


async def test_the_token_of_one_session_does_not_open_another(client: Caller) -> None:
    one, other = Browser(client.app), Browser(client.app)
    foreign = (await other.open("/studio")).form("/sign-in/user")
    await one.open("/studio")
    assert (await one.submit(foreign, user_id="mallory")).status == httpx.codes.FORBIDDEN


async def test_a_form_in_another_shape_is_refused_as_a_page(open_house: Browser) -> None:
    csrf = (await open_house.open("/studio")).form("/sign-in/user").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Origin": ORIGIN}
    for answer in (
        await open_house.post("/sign-in/user", json={"user_id": "ada"}, headers=headers),
        await open_house.post(
            "/sign-in/user", data={str(i): "x" for i in range(200)}, headers=headers
        ),
        await open_house.post(
            "/sign-in/user",
            content=b"user_id=%ff%fe",
            headers=headers | {"Content-Type": "application/x-www-form-urlencoded"},
        ),
    ):
        assert answer.status_code in {415, 422}
        assert answer.headers["content-type"].startswith("text/html")


# The open service


async def test_an_open_service_says_so_and_answers_only_to_its_own_name(
    open_house: Browser, client: Caller
) -> None:
    page = await open_house.open("/")
    assert str(page.answer.url) == f"{ORIGIN}/studio"
    assert "Open: anybody on this machine is an operator" in page.text
    assert page.form("/sign-in/user").fields["user_id"] == "demo"
    for name in ("http://localhost:8000", "http://[::1]:8000"):
        assert (await Browser(client.app, name).open("/studio")).status == httpx.codes.OK
    rebound = await Browser(client.app, "http://rebound.example:8000").open("/studio")
    assert (rebound.status, "Not under this name" in rebound.text) == (403, True)


async def test_the_limit_of_calls_holds_for_pages(make_client: Make) -> None:
    browser = Browser((await make_client(rate_limit_per_minute=2)).app)
    form = (await browser.open("/studio")).form("/studio/requests")
    form.action = "/studio/quote"
    seen = [(await browser.submit(form)).status for _ in range(3)]
    assert seen == [200, 200, 429]


# Every page


async def test_every_page_is_under_a_strict_policy_and_carries_nothing_inline(
    open_house: Browser,
) -> None:
    for path in ("/studio", "/studio/nowhere", "/sign-in"):
        page = await open_house.open(path)
        policy = dict(
            part.split(" ", 1)
            for part in page.answer.headers["content-security-policy"].split("; ")
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
        assert page.answer.headers["cache-control"] == "no-store"
        assert page.answer.headers["referrer-policy"] == "same-origin"
        assert page.answer.headers["x-content-type-options"] == "nosniff"
        assert page.answer.headers["x-request-id"] in page.text


async def test_a_page_that_is_not_there_is_told_as_a_page_and_an_address_of_the_api_as_a_problem(
    open_house: Browser,
) -> None:
    missing = await open_house.open("/studio/nowhere")
    assert (missing.status, "There is nothing here" in missing.text) == (404, True)
    assert "/studio" in missing.links
    problem = await open_house.get("/studiously")
    assert problem.headers["content-type"] == "application/problem+json"


async def test_a_fault_of_ours_is_told_without_anything_technical_and_with_a_way_on(
    open_house: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(client.app.state.queries, "page", broken)
    page = await open_house.open("/studio")
    assert page.status == httpx.codes.INTERNAL_SERVER_ERROR
    assert "Something went wrong on our side" in page.text
    assert "Try again" in page.text
    assert "secret inside" not in page.answer.text
    assert page.answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_styles_and_scripts_are_kept_for_ever_under_an_address_of_their_content(
    open_house: Browser,
) -> None:
    page = await open_house.open("/studio")
    found = re.findall(r'(?:src|href)="(/static/web/[^"]+)"', page.answer.text)
    assert len(found) >= 4
    for path in found:
        answer = await open_house.get(path)
        assert answer.status_code == httpx.codes.OK
        assert "immutable" in answer.headers["cache-control"]
        again = await open_house.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        digest = path.split("/")[3]
        assert (
            await open_house.get(path.replace(digest, "0" * len(digest)))
        ).status_code == httpx.codes.NOT_FOUND
    style = next(path for path in found if path.endswith("style.css"))
    assert (await open_house.get(style)).headers["content-encoding"] == "gzip"
    assert (
        "content-encoding"
        not in (await open_house.get(style, headers={"Accept-Encoding": "br"})).headers
    )


async def test_a_script_gets_one_part_of_a_page_alone(open_house: Browser) -> None:
    part = await open_house.open("/studio", headers={"X-Part": "title"})
    assert (part.answer.text, part.answer.headers["x-part"]) == ("Studio", "title")
    assert "<html" in (await open_house.open("/studio", headers={"X-Part": "nonsense"})).answer.text
