"""Limits per API key, lock-out after wrong credentials, and addresses named by proxies."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from creativeflow.services.aigeneration.api import rate_limit
from creativeflow.services.aigeneration.api.rate_limit import LockOut
from creativeflow.services.aigeneration.domain.errors import RateLimitedError
from tests.e2e.journey import PLAIN, REQUESTS, Caller, assert_problem
from tests.e2e.test_access import (
    HASHED_KEY,
    JWT_SECRET,
    KEYS,
    SERVICE_KEY,
    Minute,
    by_key,
    minute,
    token,
)
from tests.support.running_system import Parts

Make = Callable[..., Awaitable[Caller]]

__all__ = ("minute",)


def from_address(caller: Caller, address: str) -> httpx.AsyncClient:
    """Return a client of the same service that calls from another address."""
    transport = httpx.ASGITransport(caller.app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://aigen")


async def test_limit_of_a_key_counts_all_its_users(make_client: Make, minute: Minute) -> None:
    caller = await make_client(api_keys=KEYS, rate_limit_key_per_minute=3, rate_limit_per_minute=2)
    statuses, remaining = [], []
    for user in ("a", "b", "a", "c"):
        answer = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, user))
        statuses.append(answer.status_code)
        remaining.append(answer.headers["ratelimit"])
    assert statuses == [202, 202, 202, 429]
    assert remaining[2] == '"default";r=0;t=60, "key";r=0;t=60'
    assert answer.headers["ratelimit-policy"] == '"default";q=2;w=60, "key";q=3;w=60'
    other = await caller.post(REQUESTS, json=PLAIN, headers=by_key(HASHED_KEY, "a"))
    assert other.status_code == httpx.codes.ACCEPTED
    minute.at += 60
    after = await caller.post(REQUESTS, json=PLAIN, headers=by_key(SERVICE_KEY, "d"))
    assert after.status_code == httpx.codes.ACCEPTED


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("key", {"X-Internal-API-Key": "not a key of this service"}),
        ("token", {"Authorization": "Bearer a.b.c"}),
        ("token", token(secret="the secret of another service, 32 bytes")),
    ],
)
async def test_wrong_credentials_lock_their_address_out(
    make_client: Make, minute: Minute, kind: str, wrong: dict[str, str]
) -> None:
    caller = await make_client(api_keys=KEYS, jwt_secret=JWT_SECRET)
    labels = {"kind": kind}
    before = REGISTRY.get_sample_value("aigen_authentication_failures_total", labels) or 0
    for _ in range(30):
        assert_problem(await caller.get(REQUESTS, headers=wrong), 401, "invalid_credentials")
    assert REGISTRY.get_sample_value("aigen_authentication_failures_total", labels) == before + 30
    refused = await caller.get(REQUESTS, headers=wrong)
    assert_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) == 60
    for right in (by_key(SERVICE_KEY), token()):
        assert_problem(await caller.get(REQUESTS, headers=right), 429, "rate_limited")
        async with from_address(caller, "192.0.2.7") as elsewhere:
            answer = await elsewhere.get(REQUESTS, headers=right)
            assert answer.status_code == httpx.codes.OK
    minute.at += 60
    answer = await caller.get(REQUESTS, headers=by_key(SERVICE_KEY))
    assert answer.status_code == httpx.codes.OK


async def test_credentials_accepted_before_outlast_the_lock_out_of_their_address(
    make_client: Make, minute: Minute
) -> None:
    caller = await make_client(
        api_keys=KEYS, jwt_secret=JWT_SECRET, authentication_failures_per_minute=2
    )
    bearer = token()
    for right in (by_key(SERVICE_KEY), bearer):
        assert (await caller.get(REQUESTS, headers=right)).status_code == httpx.codes.OK
    for _ in range(3):
        await caller.get(REQUESTS, headers=by_key("not a key of this service"))
    for right in (by_key(SERVICE_KEY), bearer):
        assert (await caller.get(REQUESTS, headers=right)).status_code == httpx.codes.OK
    assert_problem(await caller.get(REQUESTS, headers=by_key(HASHED_KEY)), 429, "rate_limited")


async def test_expired_tokens_and_calls_without_credentials_lock_nobody_out(
    make_client: Make, minute: Minute
) -> None:
    caller = await make_client(
        api_keys=KEYS, jwt_secret=JWT_SECRET, authentication_failures_per_minute=2
    )
    for _ in range(5):
        assert_problem(await caller.get(REQUESTS, headers=token(exp=1)), 401, "token_expired")
        assert_problem(await caller.get(REQUESTS), 401, "authentication_required")
    assert (await caller.get(REQUESTS, headers=token())).status_code == httpx.codes.OK


@pytest.mark.parametrize("field", ["key", "token"])
async def test_sign_ins_that_fail_lock_their_address_out(
    make_client: Make, minute: Minute, field: str
) -> None:
    caller = await make_client(
        api_keys=KEYS, jwt_secret=JWT_SECRET, authentication_failures_per_minute=3
    )
    statuses = []
    for _ in range(4):
        answer = await caller.post(
            "/sign-in",
            data={field: "not one of this service", "user_id": "user"},
            headers={"Origin": "http://aigen"},
        )
        statuses.append(answer.status_code)
    assert statuses == [401, 401, 401, 429]
    assert_problem(await caller.get(REQUESTS, headers=by_key(SERVICE_KEY)), 429, "rate_limited")


def test_lock_out_counts_networks_of_ipv6_and_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, minute: Minute
) -> None:
    monkeypatch.setattr(rate_limit, "CALLERS_MAX", 3)
    lock_out = LockOut(2)
    for address in ("2001:db8::1", "2001:db8::2"):
        lock_out.fail(address, "key")
    with pytest.raises(RateLimitedError):
        lock_out.check("2001:db8::3", "any")
    lock_out.check("2001:db8:0:1::1", "any")
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        lock_out.fail(address, "key")
    with pytest.raises(RateLimitedError):
        lock_out.check("192.0.2.1", "any")
    for n in range(3):
        lock_out.fail(f"198.51.100.{n}", "key")
        lock_out.accept(f"valid {n}")
    lock_out.check("192.0.2.1", "any")
    lock_out.fail("198.51.100.2", "key")
    lock_out.check("198.51.100.2", "valid 2")
    lock_out.accept("valid 3")
    with pytest.raises(RateLimitedError):
        lock_out.check("198.51.100.2", "valid 0")


@pytest.mark.parametrize(
    ("proxies", "statuses"), [("", [401, 401, 429, 429]), ("127.0.0.0/8", [401, 401, 401, 401])]
)
async def test_addresses_are_believed_from_configured_proxies_only(
    parts: Parts, proxies: str, statuses: list[int]
) -> None:
    port = await parts.serve(
        engine="local://",
        AIGEN_API_KEYS=KEYS,
        AIGEN_AUTHENTICATION_FAILURES_PER_MINUTE="2",
        AIGEN_TRUSTED_PROXIES=proxies,
    )
    found: list[Any] = []
    for n in range(4):
        headers = by_key("not a key of this service") | {"X-Forwarded-For": f"192.0.2.{n}"}
        answer = await parts.call("GET", "/generation-requests", port, headers=headers)
        found.append(answer.status_code)
    assert found == statuses
