"""Webhook endpoints over HTTP: ownership, refusals, and confidentiality of secrets."""

import base64
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import jwt
import pytest
import structlog

from creativeflow.services.aigeneration.application.webhook_endpoints import EndpointScope
from creativeflow.services.aigeneration.storage.webhook_deliveries import DueDelivery
from tests.e2e.journey import NOBODY, OPERATIONS, PLAIN, REQUESTS, Caller, assert_problem
from tests.support.webhook_receiver import LOOPBACK, Receiver

ENDPOINTS = "/api/v1/webhook-endpoints"
SHOP, ODOO, DUTY = (
    {"X-Internal-API-Key": f"the-key-of-{name}-itself"} for name in ("shop", "odoo", "duty")
)
KEYS = (
    "shop:service:the-key-of-shop-itself,odoo:service:the-key-of-odoo-itself,"
    "duty:operator:the-key-of-duty-itself"
)
JWT_SECRET = "the secret of the end users' tokens"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with Receiver() as made:
        yield made


@pytest.fixture
async def caller(make_client: Callable[..., Awaitable[Caller]], receiver: Receiver) -> Caller:
    """A client of a service with keys, allowed to call loopback."""
    return await make_client(
        api_keys=KEYS,
        jwt_secret=JWT_SECRET,
        webhook_allowed_networks=",".join(LOOPBACK),
        webhook_endpoints_max=3,
    )


async def register(
    caller: Caller, url: str, who: dict[str, str] = SHOP, **more: Any
) -> httpx.Response:
    """Register a URL."""
    return await caller.post(ENDPOINTS, json={"url": url, **more}, headers=who)


async def act(
    caller: Caller, endpoint: dict[str, Any], action: str, who: dict[str, str] = SHOP, **body: Any
) -> Any:
    """Run an action on an endpoint."""
    return await caller.post(
        f"{ENDPOINTS}/{endpoint['id']}/{action}", json=body or None, headers=who
    )


async def test_webhook_endpoint_lifecycle(caller: Caller, receiver: Receiver) -> None:
    answer = await register(caller, receiver.url, description="orders")
    assert answer.status_code == httpx.codes.CREATED
    endpoint = answer.json()
    secret = endpoint.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert (endpoint["owner"], endpoint["url"], endpoint["description"]) == (
        "shop",
        receiver.url,
        "orders",
    )
    assert (endpoint["state"], endpoint["disabled_reason"], endpoint["failing_since"]) == (
        "enabled",
        None,
        None,
    )
    found = await caller.get(answer.headers["location"], headers=SHOP)
    assert found.json() == endpoint
    assert (await caller.get(ENDPOINTS, headers=SHOP)).json() == {"items": [endpoint]}

    created = await caller.post(REQUESTS, json=PLAIN | {"user_id": "ada"}, headers=SHOP)
    await caller.test_app.deliver(await caller.test_app.next_job())
    await caller.test_app.drain()
    (call,) = receiver.calls
    shown = await caller.get(f"{REQUESTS}/{created.json()['id']}", headers=SHOP)
    assert call.verified(secret) == {
        "type": "generation.samples_ready",
        "timestamp": shown.json()["updated_at"],
        "data": shown.json(),
    }

    log = f"{ENDPOINTS}/{endpoint['id']}/deliveries"
    (entry,) = (await caller.get(log, headers=SHOP)).json()["items"]
    assert entry["event_id"] == call.event_id
    assert (entry["type"], entry["request_id"]) == (
        "generation.samples_ready",
        created.json()["id"],
    )
    assert (entry["status"], entry["attempts"], entry["last_status"], entry["last_error"]) == (
        "delivered",
        1,
        204,
        None,
    )
    assert (await caller.get(log, params={"status": "parked"}, headers=SHOP)).json() == {
        "items": []
    }
    events = (await caller.get(f"{REQUESTS}/{created.json()['id']}/events", headers=SHOP)).json()[
        "items"
    ]
    (line,) = [event for event in events if event["event"].startswith("webhook")]
    assert (line["event"], line["data"]) == (
        "webhook_delivered",
        {
            "endpoint_id": endpoint["id"],
            "event_id": call.event_id,
            "event_type": "generation.samples_ready",
        },
    )

    again = await caller.post(f"{log}/{call.event_id}/redeliver", headers=SHOP)
    assert (again.status_code, again.json()) == (202, {"event_id": call.event_id})
    await caller.test_app.drain()
    assert (receiver.calls[1].event_id, receiver.calls[1].body) == (call.event_id, call.body)

    assert (
        await caller.delete(f"{ENDPOINTS}/{endpoint['id']}", headers=SHOP)
    ).status_code == httpx.codes.NO_CONTENT
    assert_problem(
        await caller.get(f"{ENDPOINTS}/{endpoint['id']}", headers=SHOP), 404, "not_found"
    )
    assert_problem(await caller.get(log, headers=SHOP), 404, "not_found")


async def test_webhook_test_event_is_delivered(caller: Caller, receiver: Receiver) -> None:
    endpoint = (await register(caller, receiver.url, secret=SECRET)).json()
    assert endpoint["secret"] == SECRET
    answer = await act(caller, endpoint, "test")
    assert answer.status_code == httpx.codes.ACCEPTED
    await caller.test_app.drain()
    (call,) = receiver.calls
    assert call.event_id == answer.json()["event_id"]
    told = call.verified(SECRET)
    assert (told["type"], told["data"]) == ("webhook.test", {"endpoint_id": endpoint["id"]})


async def test_webhook_endpoint_disabled_receives_nothing_until_enabled(
    caller: Caller, receiver: Receiver
) -> None:
    endpoint = (await register(caller, receiver.url)).json()
    await act(caller, endpoint, "test")
    for _ in range(2):
        disabled = (await act(caller, endpoint, "disable")).json()
        assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "by_caller")
    (entry,) = (await caller.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries", headers=SHOP)).json()[
        "items"
    ]
    assert (entry["status"], entry["last_error"]) == ("failed", "endpoint_disabled")
    assert_problem(await act(caller, endpoint, "test"), 409, "webhook_endpoint_disabled")
    again = await act(caller, endpoint, f"deliveries/{entry['event_id']}/redeliver")
    assert_problem(again, 409, "webhook_endpoint_disabled")
    await caller.test_app.drain()
    assert receiver.calls == []
    for _ in range(2):
        assert (await act(caller, endpoint, "enable")).json()["state"] == "enabled"
    assert (
        await act(caller, endpoint, f"deliveries/{entry['event_id']}/redeliver")
    ).status_code == 202
    await caller.test_app.drain()
    assert [call.event_id for call in receiver.calls] == [entry["event_id"]]


async def test_webhook_secret_rotated_is_returned_once_and_both_sign(
    caller: Caller, receiver: Receiver
) -> None:
    endpoint = (await register(caller, receiver.url)).json()
    rotated = await act(caller, endpoint, "rotate-secret")
    assert rotated.status_code == httpx.codes.OK
    secret = rotated.json()["secret"]
    assert secret != endpoint["secret"]
    given = await act(caller, endpoint, "rotate-secret", secret=SECRET)
    assert given.json()["secret"] == SECRET
    await act(caller, endpoint, "test")
    await caller.test_app.drain()
    for signed_with in (endpoint["secret"], secret, SECRET):
        assert receiver.calls[0].verified(signed_with)


async def test_webhook_endpoint_url_is_unique_per_caller(
    caller: Caller, receiver: Receiver
) -> None:
    endpoint = (await register(caller, receiver.url)).json()
    document = assert_problem(await register(caller, receiver.url), 409, "webhook_endpoint_exists")
    assert endpoint["id"] in document["detail"]
    assert (await register(caller, receiver.url, ODOO)).status_code == httpx.codes.CREATED
    assert len((await caller.get(ENDPOINTS, headers=SHOP)).json()["items"]) == 1


async def test_webhook_endpoints_are_limited_per_caller(caller: Caller, receiver: Receiver) -> None:
    for n in range(3):
        assert (await register(caller, f"{receiver.url}/{n}")).status_code == httpx.codes.CREATED
    assert_problem(await register(caller, f"{receiver.url}/4"), 409, "too_many_webhook_endpoints")
    assert (await register(caller, receiver.url, ODOO)).status_code == httpx.codes.CREATED


async def test_webhook_endpoints_are_visible_to_owner_and_operator(
    caller: Caller, receiver: Receiver
) -> None:
    endpoint = (await register(caller, receiver.url)).json()
    await act(caller, endpoint, "test")
    await caller.test_app.drain()
    event = receiver.calls[0].event_id
    assert (await caller.get(ENDPOINTS, headers=ODOO)).json() == {"items": []}
    calls = [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/deliveries"),
        ("POST", f"/deliveries/{event}/redeliver"),
    ]
    calls += [("POST", f"/{action}") for action in ("enable", "disable", "rotate-secret", "test")]
    for method, path in calls:
        answer = await caller.request(method, f"{ENDPOINTS}/{endpoint['id']}{path}", headers=ODOO)
        assert_problem(answer, 404, "not_found")
    assert (await caller.get(ENDPOINTS, headers=DUTY)).json()["items"][0]["id"] == endpoint["id"]
    assert (
        await caller.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries", headers=DUTY)
    ).status_code == httpx.codes.OK
    assert (await act(caller, endpoint, "disable", DUTY)).json()["state"] == "disabled"
    assert (await caller.get(f"{ENDPOINTS}/{endpoint['id']}", headers=SHOP)).json()[
        "state"
    ] == "disabled"


async def test_webhook_events_go_to_endpoints_of_the_creating_caller(
    caller: Caller, receiver: Receiver
) -> None:
    async with Receiver() as other:
        await register(caller, receiver.url, SHOP)
        await register(caller, other.url, ODOO)
        created = (
            await caller.post(REQUESTS, json=PLAIN | {"user_id": "ada"}, headers=ODOO)
        ).json()
        await caller.post(f"{REQUESTS}/{created['id']}/cancel", headers=SHOP)
        await caller.test_app.drain()
        assert (receiver.types(), other.types()) == ([], ["generation.cancelled"])


async def test_webhook_endpoints_refuse_end_users_and_anonymous_callers(
    caller: Caller, receiver: Receiver
) -> None:
    endpoint = (await register(caller, receiver.url)).json()
    token = jwt.encode({"sub": "ada", "exp": int(time.time()) + 600}, JWT_SECRET, "HS256")
    user = {"Authorization": f"Bearer {token}"}
    calls = [("GET", ENDPOINTS), ("POST", ENDPOINTS), ("GET", f"{ENDPOINTS}/{endpoint['id']}")]
    calls += [
        ("DELETE", f"{ENDPOINTS}/{endpoint['id']}"),
        ("POST", f"{ENDPOINTS}/{endpoint['id']}/test"),
    ]
    for method, path in calls:
        body = {"url": receiver.url} if (method, path) == ("POST", ENDPOINTS) else None
        assert_problem(
            await caller.request(method, path, json=body, headers=user), 403, "forbidden"
        )
        assert_problem(
            await caller.request(method, path, json=body), 401, "authentication_required"
        )
    for method, path in [("GET", ""), ("POST", "/test"), ("DELETE", "")]:
        assert_problem(
            await caller.request(method, f"{ENDPOINTS}/{NOBODY}{path}", headers=SHOP),
            404,
            "not_found",
        )


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://10.0.0.1/", "private_address"),
        ("https://169.254.169.254/latest/meta-data/", "private_address"),
        ("https://[::1]/", "private_address"),
        ("https://2130706433/", "ambiguous_address"),
        ("https://0x7f.1/", "ambiguous_address"),
        ("https://user:password@93.184.216.34/", "userinfo_not_allowed"),
        ("ftp://93.184.216.34/", "unknown_scheme"),
        ("https://93.184.216.34:22/", "port_not_allowed"),
        ("http://93.184.216.34/", "https_required"),
        ("https://93.184.216.34/#a", "fragment_not_allowed"),
        ("https://no such host/", "invalid_url"),
        ("https://nowhere.invalid/", "host_not_allowed"),
        ("", "string_too_short"),
        ("https://" + "a" * 3000, "string_too_long"),
        (None, "string_type"),
    ],
)
async def test_webhook_url_not_allowed_is_refused_with_remedy(
    caller: Caller, url: Any, code: str
) -> None:
    answer = await register(caller, url)
    document = assert_problem(answer, 422, "invalid_request", pointer="/url")
    assert [fault["code"] for fault in document["errors"]] == [code]
    assert (await caller.get(ENDPOINTS, headers=SHOP)).json() == {"items": []}


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_not base64",
        "plain-text-secret-of-enough-length",
        SECRET[6:],
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
        "",
    ],
)
async def test_webhook_secret_unusable_is_refused(
    caller: Caller, receiver: Receiver, secret: str
) -> None:
    answer = await register(caller, receiver.url, secret=secret)
    assert_problem(answer, 422, "invalid_request", pointer="/secret")
    assert secret == "" or secret not in answer.text or secret == "whsec_"


async def test_webhook_unknown_field_or_filter_is_refused(
    caller: Caller, receiver: Receiver
) -> None:
    assert_problem(
        await register(caller, receiver.url, sekret="x"), 422, "invalid_request", pointer="/sekret"
    )
    endpoint = (await register(caller, receiver.url)).json()
    for query in ("status=lost", "limit=0", "limit=101", "state=parked"):
        answer = await caller.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries?{query}", headers=SHOP)
        assert_problem(answer, 422, "invalid_request")


async def test_webhook_endpoints_work_on_an_open_service(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(webhook_allowed_networks="127.0.0.0/8")
    async with Receiver() as receiver:
        endpoint = (await register(caller, receiver.url, {})).json()
        assert endpoint["owner"] == "open"
        shown = await caller.with_samples()
        await caller.test_app.drain()
        assert receiver.calls[0].told["data"] == shown


async def test_webhook_url_on_loopback_is_refused_and_names_the_setting(client: Caller) -> None:
    document = assert_problem(
        await register(client, "http://127.0.0.1:9000/hook", {}), 422, "invalid_request"
    )
    assert "AIGEN_WEBHOOK_ALLOWED_NETWORKS" in document["errors"][0]["message"]


async def test_webhook_endpoints_turned_off_are_refused(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(webhook_endpoints_max=0, webhook_allowed_networks="127.0.0.0/8")
    async with Receiver() as receiver:
        assert_problem(await register(caller, receiver.url, {}), 409, "too_many_webhook_endpoints")


async def test_webhook_secret_appears_only_in_the_creating_response(
    caller: Caller, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers.extend([500, (302, f"Location: {receiver.url}"), 204])
    with structlog.testing.capture_logs() as logged:
        endpoint = (await register(caller, receiver.url)).json()
        rotated = (await act(caller, endpoint, "rotate-secret")).json()
        await act(caller, endpoint, "test")
        await caller.test_app.drain()
        await act(caller, endpoint, "disable")
        answers = [
            await caller.get(ENDPOINTS, headers=DUTY),
            await caller.get(f"{ENDPOINTS}/{endpoint['id']}", headers=SHOP),
            await caller.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries", headers=SHOP),
            await caller.get(f"{OPERATIONS}/outbox?parked=false", headers=DUTY),
            await act(caller, endpoint, "enable"),
            await register(caller, receiver.url),
        ]
    kept = await caller.test_app.service.webhook_endpoints.one(
        EndpointScope(name="shop", sees_all=False), rotated["id"]
    )
    assert kept.secrets(caller.test_app.clock()) == [rotated["secret"], endpoint["secret"]]
    due = DueDelivery(
        message_id=1,
        token=kept.id,
        tries=1,
        endpoint_id=kept.id,
        event_id=kept.id,
        request_id=None,
        type="t",
        body="secret body",
        url=kept.url,
        secrets=[kept.secret],
        failing_since=None,
    )
    said = [repr(kept), repr(due), str(logged), caplog.text, *(answer.text for answer in answers)]
    for secret in (endpoint["secret"], rotated["secret"]):
        assert all(secret.removeprefix("whsec_") not in text for text in said)
    assert len(receiver.calls) == 3
