"""One identity: a user is the same at every door, and shares nothing with a service of its name."""

import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from creativeflow.clients.aigeneration import AsyncClient
from tests.e2e.journey import OPERATIONS, PLAIN, REQUESTS, Caller, assert_problem
from tests.e2e.test_access import JWT_SECRET, KEYS, OPERATOR_KEY, SERVICE_KEY, by_key, token
from tests.support.html_client import Browser

Make = Callable[..., Awaitable[Caller]]

NAME = "josé@example.com"
SPELLINGS = [NAME, unicodedata.normalize("NFD", NAME), f"  {NAME} "]
UNPRINTABLE = ["a\u200bb", "a\u202eb", "a\u00a0b", "\u2028", "a\x7fb", " ", "u" * 201]


@pytest.fixture
async def locked(make_client: Make) -> Caller:
    """A caller of a service with keys and tokens; the user is on the Pro plan."""
    caller = await make_client(
        api_keys=KEYS, jwt_secret=JWT_SECRET, webhook_allowed_networks="127.0.0.0/8"
    )
    await caller.test_app.grant(NAME, 1000, "pro")
    return caller


def header(user_id: str) -> dict[str, Any]:
    return {b"X-Internal-API-Key": SERVICE_KEY.encode(), b"X-User-ID": user_id.encode()}


# The same user


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_user_is_the_same_in_header_body_token_and_query(
    locked: Caller, spelling: str
) -> None:
    answers = [
        await locked.post(REQUESTS, json=PLAIN, headers=header(spelling)),
        await locked.post(REQUESTS, json=PLAIN | {"user_id": NAME}, headers=header(spelling)),
        await locked.post(
            REQUESTS, json=PLAIN | {"user_id": spelling}, headers=by_key(SERVICE_KEY)
        ),
        await locked.post(REQUESTS, json=PLAIN | {"user_id": NAME}, headers=token(spelling)),
    ]
    for answer in answers:
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        assert (answer.json()["user_id"], answer.json()["plan"]) == (NAME, "pro")
    found = await locked.get(REQUESTS, params={"user_id": spelling}, headers=by_key(SERVICE_KEY))
    assert len(found.json()["items"]) == len(answers)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_user_is_the_same_in_grants_and_statements(locked: Caller, spelling: str) -> None:
    operator = by_key(OPERATOR_KEY)
    grant = {"user_id": spelling, "amount": "1.00"}
    await locked.post(f"{OPERATIONS}/credits/grants", json=grant, headers=operator)
    statement = await locked.get(f"{OPERATIONS}/users/{NAME}/statement", headers=operator)
    assert statement.json()["balance"] == "11.00"
    cleared = await locked.post(
        f"{OPERATIONS}/users/{spelling}/clear", json={"note": "right"}, headers=operator
    )
    assert cleared.status_code == httpx.codes.OK


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_user_is_the_same_at_the_sign_in_and_in_the_console(
    locked: Caller, spelling: str
) -> None:
    browser = Browser(locked.app)
    form = (await browser.open("/sign-in")).form("/sign-in")
    form.fields |= {"key": OPERATOR_KEY, "user_id": spelling}
    page = await browser.submit(form)
    assert page.form("/sign-in/user").fields["user_id"] == NAME
    form = page.form("/sign-in/user")
    form.fields["user_id"] = spelling
    page = await browser.submit(form)
    assert page.form("/sign-in/user").fields["user_id"] == NAME
    created = await locked.post(REQUESTS, json=PLAIN, headers=header(NAME))
    found = await browser.open("/console/requests", params={"q": spelling})
    assert created.json()["id"] in found.text


@pytest.mark.parametrize("user_id", UNPRINTABLE)
async def test_user_id_that_is_not_printable_is_refused(locked: Caller, user_id: str) -> None:
    in_header = await locked.post(REQUESTS, json=PLAIN, headers=header(user_id))
    assert_problem(in_header, 422, "invalid_request")
    in_body = await locked.post(
        REQUESTS, json=PLAIN | {"user_id": user_id}, headers=by_key(SERVICE_KEY)
    )
    assert_problem(in_body, 422, "invalid_request")
    in_token = await locked.get(REQUESTS, headers=token(user_id))
    assert_problem(in_token, 401, "invalid_credentials")
    in_query = await locked.get(REQUESTS, params={"user_id": user_id}, headers=by_key(SERVICE_KEY))
    assert_problem(in_query, 422, "invalid_request")


@pytest.mark.parametrize(
    "name", ["X-User-ID", "Idempotency-Key", "X-Internal-API-Key", "Authorization", "If-Match"]
)
async def test_header_that_is_not_utf8_is_refused(locked: Caller, name: str) -> None:
    headers = {b"X-Internal-API-Key": SERVICE_KEY.encode(), name.encode(): b"jos\xe9"}
    for method, path in (("POST", REQUESTS), ("GET", REQUESTS), ("GET", "/studio")):
        answer = await locked.request(
            method, path, json=PLAIN if method == "POST" else None, headers=headers
        )
        if path == REQUESTS:
            assert_problem(answer, 400, "invalid_header")
        assert answer.status_code == httpx.codes.BAD_REQUEST


async def test_client_sends_a_user_of_any_script(locked: Caller) -> None:
    transport = httpx.ASGITransport(locked.app)
    async with AsyncClient(
        "http://aigen", api_key=SERVICE_KEY, user_id=NAME, transport=transport
    ) as client:
        created = await client.create("a lighthouse", "XPost", user_id=NAME)
        cancelled = await client.cancel(created.id, user_id=NAME)
    assert (created.user_id, cancelled.outcome) == (NAME, "cancelled")


# Actions of a service for a user


ACTIONS = {
    "select-sample": {"selected_sample_id": "x"},
    "regenerate-samples": {},
    "retry": {},
    "cancel": {},
}


@pytest.mark.parametrize("action", ACTIONS)
async def test_action_takes_the_user_in_its_body(locked: Caller, action: str) -> None:
    created = await locked.post(REQUESTS, json=PLAIN, headers=header(NAME))
    path = f"{REQUESTS}/{created.json()['id']}/{action}"
    service, body = by_key(SERVICE_KEY), ACTIONS[action]
    foreign = await locked.post(path, json=body | {"user_id": "another"}, headers=service)
    assert_problem(foreign, 404, "not_found")
    for headers in (header(NAME), token(NAME)):
        mismatch = await locked.post(path, json=body | {"user_id": "another"}, headers=headers)
        assert_problem(mismatch, 403, "user_mismatch")
    unprintable = await locked.post(path, json=body | {"user_id": "a\u200b"}, headers=service)
    assert_problem(unprintable, 422, "invalid_request")
    expected = await locked.post(path, json=body, headers=header("nobody"))
    assert_problem(expected, 404, "not_found")
    right = await locked.post(path, json=body | {"user_id": SPELLINGS[1]}, headers=service)
    if action == "cancel":
        assert right.json()["outcome"] == "cancelled"
    else:  # it is the right user's, and the state does not allow the action yet
        assert_problem(right, 409, "invalid_state")


async def test_quote_takes_the_user_in_its_body(locked: Caller) -> None:
    path = f"{REQUESTS}/quote"
    quoted = await locked.post(path, json=PLAIN | {"user_id": NAME}, headers=by_key(SERVICE_KEY))
    assert quoted.json()["plan"] == "pro"
    mismatch = await locked.post(path, json=PLAIN | {"user_id": "x"}, headers=header(NAME))
    assert_problem(mismatch, 403, "user_mismatch")


# What users see of operators


async def test_timeline_names_operators_and_their_notes_to_operators_only(locked: Caller) -> None:
    created = (await locked.post(REQUESTS, json=PLAIN, headers=token(NAME))).json()
    body = {"reason": "we could not finish this", "note": "the provider forgot us again"}
    await locked.post(
        f"{OPERATIONS}/generation-requests/{created['id']}/fail",
        json=body,
        headers=by_key(OPERATOR_KEY),
    )
    await locked.test_app.database.execute(
        """INSERT INTO generation_events (request_id, event, data, at)
           VALUES ($1, 'hold_parked', '{"reason": "HTTP 500 of the adapter"}', now())""",
        created["id"],
    )
    path = f"{REQUESTS}/{created['id']}/events"
    seen = {}
    for viewer, headers in (
        ("user", token(NAME)),
        ("service", by_key(SERVICE_KEY)),
        ("for the user", header(NAME)),
        ("operator", by_key(OPERATOR_KEY)),
    ):
        items = (await locked.get(path, headers=headers)).json()["items"]
        seen[viewer] = {item["event"]: item["data"] for item in items}
    assert seen["operator"]["operator_failed"].items() >= (body | {"by": "duty"}).items()
    assert seen["operator"]["hold_parked"] == {"reason": "HTTP 500 of the adapter"}
    submitted = next(event for event, data in seen["operator"].items() if "by" in data)
    assert seen["operator"][submitted]["by"] == f"user:{NAME}"
    assert seen["user"][submitted]["by"] == f"user:{NAME}"
    for viewer in ("user", "service", "for the user"):
        assert seen[viewer]["operator_failed"]["reason"] == body["reason"]
        assert seen[viewer]["hold_parked"] == {}
        text = str(seen[viewer])
        assert "duty" not in text
        assert body["note"] not in text
    assert "by" not in seen["service"][submitted]


# Users, services and operators of one name


async def test_service_gets_no_events_of_a_user_who_is_called_like_it(locked: Caller) -> None:
    endpoint = {"url": "http://127.0.0.1:9/hook"}
    registered = await locked.post(
        "/api/v1/webhook-endpoints", json=endpoint, headers=by_key(SERVICE_KEY)
    )
    assert registered.status_code == httpx.codes.CREATED, registered.text
    for headers in (token("shop"), token("shop", roles=["operator"]) | {"X-User-ID": "shop"}):
        created = await locked.post(REQUESTS, json=PLAIN, headers=headers)
        assert created.status_code == httpx.codes.ACCEPTED, created.text
        await locked.post(f"{REQUESTS}/{created.json()['id']}/cancel", headers=headers)
    deliveries = "SELECT count(*) FROM webhook_deliveries"
    assert await locked.test_app.database.fetchval(deliveries) == 0
    own = await locked.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "shop"))
    await locked.post(f"{REQUESTS}/{own.json()['id']}/cancel", headers=by_key(SERVICE_KEY))
    assert await locked.test_app.database.fetchval(deliveries) > 0
    await locked.delete(
        f"/api/v1/webhook-endpoints/{registered.json()['id']}", headers=by_key(SERVICE_KEY)
    )


async def test_operator_by_token_shares_no_keys_and_endpoints_with_a_service_of_its_name(
    locked: Caller,
) -> None:
    key = {"Idempotency-Key": "order-7"}
    operator = token("shop", roles=["operator"])
    theirs = await locked.post(REQUESTS, json=PLAIN | {"user_id": "shop"}, headers=operator | key)
    ours = await locked.post(
        REQUESTS, json=PLAIN | {"user_id": "shop"}, headers=by_key(SERVICE_KEY) | key
    )
    assert ours.status_code == theirs.status_code == httpx.codes.ACCEPTED
    assert ours.json()["id"] != theirs.json()["id"]
    endpoint = {"url": "http://127.0.0.1:9/hook"}
    await locked.post("/api/v1/webhook-endpoints", json=endpoint, headers=operator)
    seen = await locked.get("/api/v1/webhook-endpoints", headers=by_key(SERVICE_KEY))
    assert seen.json()["items"] == []
