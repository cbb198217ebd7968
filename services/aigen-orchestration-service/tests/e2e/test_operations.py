"""Operator calls: credits, stuck requests, outbox messages and queues."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.e2e.journey import NOBODY, OPERATIONS, REQUESTS, Caller, Footprint, assert_problem

KEY = {"Idempotency-Key": "grant-7"}


async def read(caller: Caller, path: str) -> Any:
    """Read an operator resource."""
    answer = await caller.get(f"{OPERATIONS}/{path}")
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """An open service; `user` is on the payg plan with 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return client


# Credits


async def test_grant_creates_the_account_and_returns_its_statement(client: Caller) -> None:
    body = {"user_id": "user", "amount": "2.50", "plan": "payg", "reason": "goodwill"}
    answer = await client.post(f"{OPERATIONS}/credits/grants", json=body)
    assert answer.status_code == httpx.codes.CREATED
    statement = answer.json()
    assert {name: statement[name] for name in ("plan", "balance", "held")} == {
        "plan": "payg",
        "balance": "2.50",
        "held": "0.00",
    }
    (entry,) = statement["entries"]
    assert (entry["kind"], entry["amount"], entry["reason"]) == (
        "grant",
        "2.50",
        "goodwill (plan payg)",
    )
    assert await read(client, "users/user/statement") == statement


async def test_grant_applies_at_once_to_cached_entitlements(client: Caller) -> None:
    assert_problem(await client.create(brand_kit_id="kit"), 403, "plan_required")
    await client.post(
        f"{OPERATIONS}/credits/grants", json={"user_id": "user", "amount": "0", "plan": "pro"}
    )
    assert (await client.create(brand_kit_id="kit")).status_code == httpx.codes.ACCEPTED


async def test_grant_repeated_under_one_key_is_posted_once(client: Caller) -> None:
    body = {"user_id": "user", "amount": "5.00", "plan": "payg"}
    answers = [
        await client.post(f"{OPERATIONS}/credits/grants", json=body, headers=KEY) for _ in range(3)
    ]
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["balance"] for answer in answers} == {"5.00"}
    assert await client.test_app.balance() == 500
    await client.post(
        f"{OPERATIONS}/credits/grants", json=body, headers={"Idempotency-Key": "grant-8"}
    )
    await client.post(f"{OPERATIONS}/credits/grants", json=body)
    assert await client.test_app.balance() == 1500


async def test_grant_with_a_used_key_is_refused(client: Caller) -> None:
    body = {"user_id": "user", "amount": "5.00", "plan": "payg"}
    await client.post(f"{OPERATIONS}/credits/grants", json=body, headers=KEY)
    before = await Footprint.of(client.test_app)
    for changes in ({"amount": "6.00"}, {"user_id": "other"}, {"plan": "team"}, {"amount": "0"}):
        answer = await client.post(f"{OPERATIONS}/credits/grants", json=body | changes, headers=KEY)
        assert_problem(answer, 422, "idempotency_key_reused")
        assert await Footprint.of(client.test_app) == before
        assert (await read(client, "users/user/statement"))["plan"] == "payg"


async def test_grant_negative_never_exceeds_the_balance(paying: Caller) -> None:
    taken = await paying.post(
        f"{OPERATIONS}/credits/grants", json={"user_id": "user", "amount": "-19.99"}
    )
    assert taken.json()["balance"] == "0.01"
    answer = await paying.post(
        f"{OPERATIONS}/credits/grants", json={"user_id": "user", "amount": "-0.02"}
    )
    assert_problem(answer, 422, "invalid_request", pointer="/amount")
    assert await paying.test_app.balance() == 1


async def test_statement_lists_movements_newest_first_and_holds(paying: Caller) -> None:
    paying.test_app.clock.advance(minutes=1)
    shown = await paying.with_samples()
    await paying.create()
    await paying.test_app.drain()
    statement = await read(paying, "users/user/statement")
    assert (statement["balance"], statement["held"], statement["plan"]) == ("19.50", "0.25", "payg")
    assert [(entry["kind"], entry["amount"]) for entry in statement["entries"]] == [
        ("hold", "-0.25"),
        ("capture", "0.00"),
        ("hold", "-0.25"),
        ("grant", "20.00"),
    ]
    assert [
        statement["entries"][1][name] for name in ("request_id", "stage", "round", "reason")
    ] == [shown["id"], "samples", 1, "sample_generation"]


async def test_statement_of_unknown_user_is_empty_on_the_free_plan(client: Caller) -> None:
    statement = await read(client, "users/nobody/statement")
    assert (statement["plan"], statement["balance"], statement["held"], statement["entries"]) == (
        "free",
        "0.00",
        "0.00",
        [],
    )


# Stuck requests


async def test_stuck_lists_requests_a_minute_after_their_deadline(paying: Caller) -> None:
    created = (await paying.create()).json()
    await paying.report("started", await paying.test_app.next_job())
    assert await read(paying, "stuck") == {"items": []}
    paying.test_app.clock.advance(minutes=5, seconds=30)
    assert await read(paying, "stuck") == {"items": []}
    paying.test_app.clock.advance(minutes=1)
    (found,) = (await read(paying, "stuck"))["items"]
    assert found == await paying.look(created["id"])
    await paying.test_app.sweep()
    assert await read(paying, "stuck") == {"items": []}
    assert (await paying.look(created["id"]))["attempt"] == 2


async def test_fail_releases_the_hold_and_records_the_operator(paying: Caller) -> None:
    created = (await paying.create()).json()
    job = await paying.test_app.next_job()
    assert await paying.test_app.balance() == 1975
    answer = await paying.post(
        f"{OPERATIONS}/generation-requests/{created['id']}/fail",
        json={"reason": "the worker burnt down"},
    )
    assert answer.status_code == httpx.codes.OK
    ended = answer.json()
    assert (ended["status"], ended["failure"]["code"], ended["cost"]["held"]) == (
        "FAILED",
        "operator_ended",
        "0.00",
    )
    assert ended == await paying.look(created["id"])
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000
    assert paying.test_app.notifier.types() == ["generation_failed"]
    events = (await paying.get(f"{REQUESTS}/{created['id']}/events")).json()["items"]
    (entry,) = [entry for entry in events if entry["event"] == "operator_failed"]
    assert (entry["data"]["by"], entry["data"]["reason"]) == ("open", "the worker burnt down")
    assert_problem(await paying.report_result(job), 409, "stale_result")


async def test_fail_ended_or_unknown_request_is_refused(paying: Caller) -> None:
    created = (await paying.create()).json()
    await paying.act(created["id"], "cancel")
    before = await paying.look(created["id"])
    answer = await paying.post(
        f"{OPERATIONS}/generation-requests/{created['id']}/fail", json={"reason": "why"}
    )
    assert_problem(answer, 409, "invalid_state")
    assert await paying.look(created["id"]) == before
    answer = await paying.post(
        f"{OPERATIONS}/generation-requests/{NOBODY}/fail", json={"reason": "why"}
    )
    assert_problem(answer, 404, "not_found")


async def test_fail_keeps_delivered_samples_charged(paying: Caller) -> None:
    shown = await paying.with_samples()
    await paying.act(
        shown["id"], "select-sample", selected_sample_id=shown["samples"][0]["asset_id"]
    )
    await paying.post(
        f"{OPERATIONS}/generation-requests/{shown['id']}/fail", json={"reason": "why"}
    )
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 1975
    assert (await paying.look(shown["id"]))["cost"]["total"] == "0.25"


# Messages


async def _parked(caller: Caller) -> dict[str, Any]:
    """Create a parked message: the notifier refused it."""
    await caller.with_samples()
    caller.test_app.notifier.faults.append("refused")
    await caller.test_app.drain()
    (message,) = (await read(caller, "outbox"))["items"]
    return dict(message)


async def test_outbox_parked_message_is_listed_and_delivered_after_replay(paying: Caller) -> None:
    message = await _parked(paying)
    assert (message["topic"], message["parked_reason"]) == ("notification.send", "simulated")
    assert (await read(paying, "queues"))["outbox"] == {
        "open": 1,
        "parked": 1,
        "webhooks": 0,
        "webhooks_parked": 0,
    }
    assert (await read(paying, "invariants"))["counts"]["messages_parked"] == 1
    answer = await paying.post(f"{OPERATIONS}/outbox/{message['id']}/replay")
    assert (answer.status_code, answer.json()) == (200, {"status": "due"})
    assert await read(paying, "outbox") == {"items": []}
    assert [item["id"] for item in (await read(paying, "outbox?parked=false"))["items"]] == [
        message["id"]
    ]
    again = await paying.post(f"{OPERATIONS}/outbox/{message['id']}/replay")
    assert_problem(again, 404, "not_found")
    await paying.test_app.drain()
    assert paying.test_app.notifier.types() == ["samples_ready"]
    events = (await paying.get(f"{REQUESTS}/{message['request_id']}/events")).json()["items"]
    of_messages = [entry["event"] for entry in events if "message" in entry["event"]]
    assert [*of_messages, events[-1]["event"]] == [
        "message_parked",
        "message_replayed",
        "notification_sent",
    ]
    assert events[-2]["data"]["by"] == "open"


async def test_outbox_dropped_message_is_deleted_and_recorded(paying: Caller) -> None:
    message = await _parked(paying)
    answer = await paying.post(f"{OPERATIONS}/outbox/{message['id']}/drop")
    assert (answer.status_code, answer.json()) == (200, {"status": "dropped"})
    assert await read(paying, "outbox?parked=false") == {"items": []}
    assert_problem(await paying.post(f"{OPERATIONS}/outbox/{message['id']}/drop"), 404, "not_found")
    events = (await paying.get(f"{REQUESTS}/{message['request_id']}/events")).json()["items"]
    assert (events[-1]["event"], events[-1]["data"]["by"]) == ("message_dropped", "open")
    await paying.test_app.drain()
    assert paying.test_app.notifier.types() == []


async def test_outbox_open_message_cannot_be_replayed_or_dropped(paying: Caller) -> None:
    await paying.with_samples()
    waiting = (await read(paying, "outbox?parked=false"))["items"]
    assert {message["topic"] for message in waiting} == {"notification.send", "credits.capture"}
    for message in waiting:
        for what in ("replay", "drop"):
            assert_problem(
                await paying.post(f"{OPERATIONS}/outbox/{message['id']}/{what}"), 404, "not_found"
            )
    assert (await read(paying, "outbox?parked=false"))["items"] == waiting


# Queues and invariants


async def test_queues_show_lanes_in_flight_jobs_and_outbox(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(lane_window=1)
    await caller.test_app.grant("user", 0, "pro")
    empty = await read(caller, "queues")
    assert [(lane["lane"], lane["waiting"], lane["in_flight"]) for lane in empty["lanes"]] == [
        ("final", 0, 0),
        ("samples", 0, 0),
    ]
    assert (empty["outbox"], empty["broker"]) == (
        {"open": 0, "parked": 0, "webhooks": 0, "webhooks_parked": 0},
        {},
    )
    for _ in range(3):
        await caller.create()
    job = await caller.test_app.next_job()
    await caller.report("started", job)
    lanes = {lane["lane"]: lane for lane in (await read(caller, "queues"))["lanes"]}
    assert (lanes["samples"]["waiting"], lanes["samples"]["in_flight"]) == (2, 1)
    assert lanes["samples"]["oldest_waiting_since"] is not None


async def test_invariants_healthy_service_has_zero_counts(paying: Caller) -> None:
    await paying.completed()
    await paying.act((await paying.create()).json()["id"], "cancel")
    await paying.test_app.drain()
    counts = (await read(paying, "invariants"))["counts"]
    assert len(counts) >= 10
    assert set(counts.values()) == {0}
