"""Idempotency keys: a repeated call returns the same bytes and has no further effect."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from creativeflow.services.aigeneration.domain.request import GenerationRequest
from tests.e2e.journey import OPERATIONS, PLAIN, REQUESTS, Caller, Footprint, assert_problem
from tests.support.app import ServiceUnderTest

KEY = {"Idempotency-Key": "order-7"}
SERVICE_KEY, OTHER_KEY = "the-key-of-the-shop", "the-key-of-the-gateway"

Act = Callable[[], Awaitable[httpx.Response]]


def assert_replayed(first: httpx.Response, again: httpx.Response) -> None:
    """Check that the second response repeats the first and says so."""
    assert "idempotent-replayed" not in first.headers
    assert again.status_code == first.status_code, again.text
    assert again.headers.get("idempotent-replayed") == "true", again.text
    assert again.content == first.content
    for name in ("content-type", "location"):
        assert again.headers.get(name) == first.headers.get(name)


async def start(caller: Caller) -> Act:
    """Create with a key."""
    return lambda: caller.create(headers=KEY)


async def selection(caller: Caller) -> Act:
    """Select a sample with a key."""
    shown = await caller.with_samples()
    pick = {"selected_sample_id": shown["samples"][1]["asset_id"], "desired_resolution": "FHD"}
    return lambda: caller.act(shown["id"], "select-sample", headers=KEY, **pick)


async def regeneration(caller: Caller) -> Act:
    """Regenerate with a key."""
    shown = await caller.with_samples()
    return lambda: caller.act(
        shown["id"], "regenerate-samples", headers=KEY, updated_prompt="A green otter"
    )


async def retrying(caller: Caller) -> Act:
    """Retry with a key."""
    created = (await caller.create()).json()
    await caller.test_app.fail(await caller.test_app.next_job(), "invalid_input")
    return lambda: caller.act(created["id"], "retry", headers=KEY, model="fast")


async def cancelling(caller: Caller) -> Act:
    """Cancel with a key, while a worker is busy."""
    created = (await caller.create()).json()
    await caller.test_app.next_job()
    return lambda: caller.act(created["id"], "cancel", headers=KEY)


async def ending(caller: Caller) -> Act:
    """Fail as operator with a key."""
    created = (await caller.create()).json()
    body = {"reason": "the customer asked"}
    return lambda: caller.post(
        f"{OPERATIONS}/generation-requests/{created['id']}/fail", json=body, headers=KEY
    )


ACTIONS = [start, selection, regeneration, retrying, cancelling, ending]


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """An open service; `user` is on the payg plan with 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return client


async def finish(caller: Caller) -> None:
    """Finish every job, so that requests have changed when a call is repeated."""
    await caller.test_app.dispatch()
    while caller.test_app.engine.jobs:
        job: GenerationRequest = caller.test_app.engine.jobs.popleft()
        if not (await caller.test_app.look(job)).terminal:
            await caller.test_app.deliver(job)


@pytest.mark.parametrize("action", ACTIONS)
async def test_key_repeated_call_returns_the_same_bytes(
    paying: Caller, action: Callable[[Caller], Awaitable[Act]]
) -> None:
    act = await action(paying)
    first = await act()
    assert first.is_success, first.text
    after = await Footprint.of(paying.test_app)
    assert_replayed(first, await act())
    assert await Footprint.of(paying.test_app) == after
    await finish(paying)
    later = await Footprint.of(paying.test_app)
    assert_replayed(first, await act())
    assert await Footprint.of(paying.test_app) == later


@pytest.mark.parametrize("action", ACTIONS)
async def test_key_twenty_concurrent_calls_act_once(
    paying: Caller, action: Callable[[Caller], Awaitable[Act]]
) -> None:
    act = await action(paying)
    answers = await asyncio.gather(*(until_answered(act) for _ in range(20)))
    assert len({answer.content for answer in answers}) == 1
    assert Counter(answer.headers.get("idempotent-replayed") for answer in answers) == {
        None: 1,
        "true": 19,
    }
    await paying.test_app.dispatch()
    assert len({job.job_id for job in paying.test_app.engine.published}) == len(
        paying.test_app.engine.published
    )


async def until_answered(act: Act) -> httpx.Response:
    """Repeat a call while the first one is still running."""
    for _ in range(500):
        answer = await act()
        if answer.status_code != httpx.codes.CONFLICT:
            return answer
        assert_problem(answer, 409, "idempotency_key_in_flight")
        await asyncio.sleep(0.01)  # instead of Retry-After, which is a whole second
    raise AssertionError("no answer after 500 calls")


async def test_key_two_hundred_concurrent_creates_are_one_request(paying: Caller) -> None:
    answers = await asyncio.gather(
        *(until_answered(lambda: paying.create(headers=KEY)) for _ in range(200))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len((await paying.get(REQUESTS)).json()["items"]) == 1
    assert await paying.test_app.balance() == 2000 - 25
    await paying.test_app.dispatch()
    assert len(paying.test_app.engine.published) == 1


async def test_key_with_another_body_is_refused(paying: Caller) -> None:
    await paying.create(headers=KEY)
    before = await Footprint.of(paying.test_app)
    assert_problem(await paying.create(headers=KEY, locale="de-DE"), 422, "idempotency_key_reused")
    assert_problem(await paying.create("pro", headers=KEY), 422, "idempotency_key_reused")
    assert await Footprint.of(paying.test_app) == before


async def test_key_with_reordered_fields_is_the_same_body(paying: Caller) -> None:
    headers = KEY | {"Content-Type": "application/json"}
    bodies = (
        '{"user_id":"user","input_prompt":"An otter","output_format":"FacebookAd"}',
        '{ "output_format": "FacebookAd",\n "input_prompt": "An otter", "user_id": "user" }',
    )
    first, again = [await paying.post(REQUESTS, content=body, headers=headers) for body in bodies]
    assert_replayed(first, again)


async def test_key_with_another_call_is_refused(paying: Caller) -> None:
    shown = await paying.with_samples()
    sample, other = (entry["asset_id"] for entry in shown["samples"][:2])
    first = await paying.act(shown["id"], "select-sample", headers=KEY, selected_sample_id=sample)
    assert first.is_success
    before = await paying.look(shown["id"])
    for reused in (
        await paying.act(shown["id"], "select-sample", headers=KEY, selected_sample_id=other),
        await paying.act(
            shown["id"],
            "select-sample",
            headers=KEY,
            selected_sample_id=sample,
            output_format="webp",
        ),
        await paying.act(shown["id"], "regenerate-samples", headers=KEY),
        await paying.act(shown["id"], "retry", headers=KEY),
        await paying.act(shown["id"], "cancel", headers=KEY),
        await paying.create(headers=KEY),
    ):
        assert_problem(reused, 422, "idempotency_key_reused")
    assert await paying.look(shown["id"]) == before


async def test_key_in_flight_is_409(paying: Caller) -> None:
    paying.test_app.credits.gate = asyncio.Event()
    first = asyncio.create_task(paying.create(headers=KEY))
    async with asyncio.timeout(10):
        while not paying.test_app.credits.calls:
            await asyncio.sleep(0)
    early = await paying.create(headers=KEY)
    assert_problem(early, 409, "idempotency_key_in_flight")
    assert early.json()["retryable"]
    assert int(early.headers["retry-after"]) >= 1
    assert_problem(await paying.create(headers=KEY, locale="de-DE"), 422, "idempotency_key_reused")
    paying.test_app.credits.gate.set()
    assert_replayed(await first, await paying.create(headers=KEY))


async def test_key_response_during_an_unknown_hold_is_stored(paying: Caller) -> None:
    paying.test_app.credits.faults.append("after")
    first = await paying.create(headers=KEY)
    assert first.json()["status"] == "VALIDATING_CREDITS"
    paying.test_app.clock.advance(minutes=1)
    await paying.test_app.sweep()
    assert (await paying.look(first.json()["id"]))["status"] == "PENDING"
    assert_replayed(first, await paying.create(headers=KEY))


async def test_key_belongs_to_its_caller(make_client: Callable[..., Awaitable[Caller]]) -> None:
    caller = await make_client(api_keys=f"shop:service:{SERVICE_KEY},gateway:service:{OTHER_KEY}")
    await caller.test_app.grant("user", 0, "pro")
    await caller.test_app.grant("other", 0, "pro")
    made = []
    for key in (SERVICE_KEY, OTHER_KEY):
        for user in ("user", "other"):
            headers = KEY | {"X-Internal-API-Key": key, "X-User-ID": user}
            answer = await caller.post(REQUESTS, json=PLAIN, headers=headers)
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            assert "idempotent-replayed" not in answer.headers
            assert answer.json()["user_id"] == user
            made.append(answer.json()["id"])
    assert len(set(made)) == 4


async def test_key_insufficient_credits_is_replayed_after_a_top_up(client: Caller) -> None:
    await client.test_app.grant("user", 24, "payg")
    first = assert_problem(await client.create(headers=KEY), 402, "insufficient_credits")
    await client.test_app.grant("user", 1000)
    answer = await client.create(headers=KEY)
    again = assert_problem(answer, 402, "insufficient_credits")
    assert {k: v for k, v in again.items() if k != "request_id"} == {
        k: v for k, v in first.items() if k != "request_id"
    }
    assert answer.headers.get("idempotent-replayed") == "true"
    assert (
        await client.create(headers={"Idempotency-Key": "another"})
    ).status_code == httpx.codes.ACCEPTED
    assert await client.test_app.balance() == 1024 - 25


async def test_key_refused_final_is_replayed_and_a_new_key_retries(client: Caller) -> None:
    await client.test_app.grant("user", 30, "payg")
    shown = await client.with_samples()
    pick = {"selected_sample_id": shown["samples"][0]["asset_id"]}
    assert_problem(
        await client.act(shown["id"], "select-sample", headers=KEY, **pick),
        402,
        "insufficient_credits",
    )
    await client.test_app.grant("user", 1000)
    assert_problem(
        await client.act(shown["id"], "select-sample", headers=KEY, **pick),
        402,
        "insufficient_credits",
    )
    assert (await client.look(shown["id"]))["selected_sample_id"] is None
    fresh = {"Idempotency-Key": "another"}
    assert (await client.act(shown["id"], "select-sample", headers=fresh, **pick)).is_success


async def test_key_of_an_invalid_call_stays_free(paying: Caller) -> None:
    assert_problem(await paying.create(headers=KEY, locale="english"), 422, "invalid_request")
    assert_problem(
        await paying.create("free", headers=KEY, brand_kit_id="kit"), 403, "plan_required"
    )
    right = await paying.create(headers=KEY)
    assert right.status_code == httpx.codes.ACCEPTED
    assert "idempotent-replayed" not in right.headers


async def test_key_empty_long_or_not_plain_is_refused(paying: Caller) -> None:
    before = await Footprint.of(paying.test_app)
    for key in ("", "k" * 256, "a\x7fb"):
        assert_problem(
            await paying.create(headers={"Idempotency-Key": key}), 400, "idempotency_key_required"
        )
        answer = await paying.act(str(uuid4()), "cancel", headers={"Idempotency-Key": key})
        assert_problem(answer, 400, "idempotency_key_required")
    assert await Footprint.of(paying.test_app) == before


async def test_key_of_255_characters_is_accepted(paying: Caller) -> None:
    first = await paying.create(headers={"Idempotency-Key": "k" * 255})
    assert_replayed(first, await paying.create(headers={"Idempotency-Key": "k" * 255}))
    other = await paying.create(headers={"Idempotency-Key": "k" * 254})
    assert other.json()["id"] != first.json()["id"]


async def test_key_required_by_setting_is_mandatory(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(require_idempotency_key=True)
    await caller.test_app.grant("user", 0, "pro")
    assert_problem(await caller.create(), 400, "idempotency_key_required")
    assert (await Footprint.of(caller.test_app)).rows["generation_requests"] == 0
    created = (await caller.create(headers=KEY)).json()
    await caller.test_app.deliver(await caller.test_app.next_job())
    bodies: dict[str, dict[str, Any]] = {
        "select-sample": {"selected_sample_id": "any"},
        "regenerate-samples": {},
        "retry": {},
        "cancel": {},
    }
    for action, body in bodies.items():
        assert_problem(
            await caller.act(created["id"], action, **body), 400, "idempotency_key_required"
        )
    for path, sent in (
        (f"generation-requests/{created['id']}/fail", {"reason": "why"}),
        ("credits/grants", {"user_id": "user", "amount": "1.00"}),
    ):
        assert_problem(
            await caller.post(f"{OPERATIONS}/{path}", json=sent), 400, "idempotency_key_required"
        )
    assert (await caller.look(created["id"]))["status"] == "AWAITING_SELECTION"
    assert (await caller.post(f"{REQUESTS}/quote", json={"user_id": "user", **PLAIN})).is_success


async def test_key_survives_a_restart(
    make_client: Callable[..., Awaitable[Caller]], make_test_app: Callable[..., ServiceUnderTest]
) -> None:
    before = await make_client()
    await before.test_app.grant("user", 100, "payg")
    first = await before.create(headers=KEY)
    await before.test_app.check()
    await before.test_app.close()
    after = await make_client()
    assert_replayed(first, await after.create(headers=KEY))
    assert await after.test_app.balance() == 75
    await after.test_app.dispatch()
    assert len(after.test_app.engine.published) == 1


async def test_key_is_deleted_after_its_lifetime(paying: Caller) -> None:
    first = await paying.create(headers=KEY)
    paying.test_app.clock.advance(hours=95)
    await paying.test_app.housekeep()
    assert_replayed(first, await paying.create(headers=KEY))
    paying.test_app.clock.advance(hours=2)
    await paying.test_app.sweep()
    await paying.test_app.housekeep()
    assert (await paying.create(headers=KEY)).json()["id"] != first.json()["id"]
