"""What every response tells browsers and caches, and addresses under the public URL."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.journey import PLAIN, REQUESTS, Caller
from tests.e2e.test_access import KEYS, OPERATOR_KEY, SERVICE_KEY, by_key
from tests.support.html_client import Browser

Make = Callable[..., Awaitable[Caller]]
PUBLIC = "https://shared.example.com/aigen"


async def test_api_responses_are_stored_by_no_cache(client: Caller) -> None:
    created = await client.create()
    for path in (REQUESTS, f"{REQUESTS}/{created.json()['id']}", f"{REQUESTS}/nothing"):
        answer = await client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers


async def test_pictures_may_be_shown_by_other_sites(client: Caller) -> None:
    answer = await client.get(f"/assets/{'0' * 32}.png")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_https_is_kept_where_the_public_url_has_it(make_client: Make) -> None:
    for url, kept in ((PUBLIC, True), ("http://own.example", False)):
        answer = await (await make_client(public_url=url)).get("/health")
        assert ("strict-transport-security" in answer.headers) is kept


async def test_docs_run_their_own_scripts_only_and_cannot_be_framed(client: Caller) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY"
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert re.fullmatch(r"script-src 'self' 'sha256-[A-Za-z0-9+/=]{44}'", scripts)


async def test_ready_shows_details_to_operators_only(make_client: Make) -> None:
    caller = await make_client(api_keys=KEYS)
    for headers in ({}, by_key(SERVICE_KEY), by_key("a wrong key of the service")):
        assert (await caller.get("/ready", headers=headers)).json() == {"status": "ready"}
    found = (await caller.get("/ready", headers=by_key(OPERATOR_KEY))).json()
    assert found["checks"]["database"]["ok"]


# Under a path of the public URL, which the proxy removes


async def test_addresses_of_the_api_are_under_the_public_url(make_client: Make) -> None:
    caller = await make_client(public_url=PUBLIC)
    created = [await caller.post(REQUESTS, json=PLAIN | {"user_id": "ada"}) for _ in range(2)]
    assert created[0].headers["location"] == f"{PUBLIC}{REQUESTS}/{created[0].json()['id']}"
    page = await caller.get(REQUESTS, params={"limit": 1, "user_id": "ada"})
    following = page.headers["link"].removeprefix("<").partition(">")[0]
    assert following.startswith(f"{PUBLIC}{REQUESTS}?")
    second = await caller.get(following.removeprefix(PUBLIC))
    assert second.json()["items"][0]["id"] == created[0].json()["id"]
    replayed = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await caller.post(REQUESTS, json=PLAIN | {"user_id": "ada"}, headers=replayed)
        assert answer.headers["location"].startswith(f"{PUBLIC}{REQUESTS}/")
    described = (await caller.get("/openapi.json")).json()
    assert described["servers"][0]["url"] == "/aigen/"
    docs = (await caller.get("/docs")).text
    assert "'/aigen/openapi.json'" in docs
    assert '"/aigen/docs/swagger-ui-bundle.js"' in docs


async def test_addresses_of_pages_are_under_the_path_of_the_public_url(make_client: Make) -> None:
    caller = await make_client(public_url=PUBLIC)
    browser = Browser(caller.app, "https://shared.example.com")
    home = await caller.get("/")
    assert home.headers["location"] == "/aigen/studio"
    for path in ("/studio", "/studio/history", "/console", "/console/requests", "/studio/nowhere"):
        page = (await browser.get(path, follow_redirects=False)).text
        found = re.findall(r'\s(?:href|src|action|formaction|data-[a-z]+)="(/[^"]*)"', page)
        assert found
        assert [address for address in found if not address.startswith("/aigen/")] == [], path
    form = re.search(r'data-brief-form data-quote="([^"]+)"', (await browser.get("/studio")).text)
    assert form is not None
    assert form[1] == "/aigen/studio/quote"


@pytest.mark.parametrize("given", ["https://own.example", "https://own.example/"])
async def test_addresses_under_a_public_url_without_path_have_no_prefix(
    make_client: Make, given: str
) -> None:
    caller = await make_client(public_url=given)
    created = await caller.post(REQUESTS, json=PLAIN | {"user_id": "ada"})
    assert created.headers["location"].startswith(f"https://own.example{REQUESTS}/")
    assert (await caller.get("/")).headers["location"] == "/studio"


# Bounds and rights


@pytest.mark.parametrize(("size", "status"), [(7_900, 202), (8_100, 422)])
async def test_metadata_is_bounded(client: Caller, size: int, status: int) -> None:
    answer = await client.create(metadata={"order": "x" * (size - 12)})
    assert answer.status_code == status, answer.text
    if status == httpx.codes.UNPROCESSABLE_ENTITY:
        assert answer.json()["errors"][0]["pointer"] == "/metadata"


def test_pictures_can_be_read_by_the_service_only(client: Caller) -> None:
    directory = Path(client.test_app.service.settings.data_dir) / "assets"
    assert directory.stat().st_mode & 0o777 == 0o700
