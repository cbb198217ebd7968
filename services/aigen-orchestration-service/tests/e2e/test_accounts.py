"""Operator calls on accounts: binding quotes, flags, holds in doubt, usage, reconciliation."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import Prices
from tests.e2e.journey import NOBODY, OPERATIONS, REQUESTS, Caller, assert_problem


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """An open service; `user` is on the payg plan with 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return client


async def read(caller: Caller, path: str) -> Any:
    """Read an operator resource."""
    answer = await caller.get(f"{OPERATIONS}/{path}")
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


async def quote(caller: Caller, **brief: Any) -> dict[str, Any]:
    """Quote a plain request."""
    body = {
        "user_id": "user",
        "input_prompt": "A lighthouse",
        "output_format": "InstagramPost_1x1",
        **brief,
    }
    answer = await caller.post(f"{REQUESTS}/quote", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found


# Quotes


async def test_quote_is_accepted_by_every_charged_action(paying: Caller) -> None:
    quote_id = (await quote(paying))["quote_id"]
    created = await paying.create(quote_id=quote_id)
    assert created.status_code == httpx.codes.ACCEPTED
    assert "quote_id" not in created.json()["brief"]
    request_id = created.json()["id"]
    await paying.test_app.deliver(await paying.test_app.next_job())
    again = await paying.act(request_id, "regenerate-samples", quote_id=quote_id)
    assert again.status_code == httpx.codes.ACCEPTED
    await paying.test_app.deliver(await paying.test_app.next_job())
    sample = (await paying.look(request_id))["samples"][0]["asset_id"]
    chosen = await paying.act(
        request_id, "select-sample", selected_sample_id=sample, quote_id=quote_id
    )
    assert chosen.json()["cost"] == {
        "samples": "0.50",
        "final": "1.00",
        "total": "1.50",
        "held": "1.00",
    }
    await paying.act(request_id, "cancel")
    retried = await paying.act(request_id, "retry", quote_id=quote_id)
    assert retried.status_code == httpx.codes.ACCEPTED


async def test_quote_with_changed_price_is_409_and_charges_nothing(paying: Caller) -> None:
    quote_id = (await quote(paying))["quote_id"]
    paying.test_app.generations._policy = Policy(prices=Prices(sample_set=20))  # noqa: SLF001 - as other settings would
    assert_problem(await paying.create(quote_id=quote_id), 409, "quote_expired")
    assert await paying.test_app.balance() == 2000


async def test_quote_invalid_is_reported_at_its_field(paying: Caller) -> None:
    for wrong in ("nothing", (await quote(paying))["quote_id"][:-2]):
        assert_problem(
            await paying.create(quote_id=wrong), 422, "invalid_request", pointer="/quote_id"
        )
    for wrong in ("", "x" * 500):
        assert_problem(
            await paying.create(quote_id=wrong), 422, "invalid_request", pointer="/quote_id"
        )


# Flags


async def test_flagged_account_is_listed_refused_and_cleared(paying: Caller) -> None:
    await paying.test_app.service.account_flags.raise_(
        "user", "charge_failed", paying.test_app.clock()
    )
    paying.test_app.service.entitlements.forget("user")
    assert_problem(await paying.create(), 403, "account_restricted")
    (flag,) = (await read(paying, "flags"))["items"]
    assert (flag["user_id"], flag["reason"]) == ("user", "charge_failed")
    statement = await read(paying, "users/user/statement")
    assert (statement["restricted"], len(statement["flags"])) == (True, 1)

    answer = await paying.post(f"{OPERATIONS}/users/user/clear", json={"note": "paid by invoice 7"})
    assert answer.json() == {"cleared": 1}
    assert (await paying.post(f"{OPERATIONS}/users/user/clear", json={"note": "again"})).json() == {
        "cleared": 0
    }
    assert await read(paying, "flags") == {"items": []}
    assert (await paying.create()).status_code == httpx.codes.ACCEPTED
    row = await paying.test_app.database.fetchrow("SELECT cleared_by, note FROM account_flags")
    assert tuple(row or ()) == ("open", "paid by invoice 7")
    assert_problem(
        await paying.post(f"{OPERATIONS}/users/user/clear", json={}), 422, "invalid_request"
    )


# Holds in doubt


async def test_parked_hold_is_listed_and_decided(paying: Caller) -> None:
    paying.test_app.credits.faults.extend(["conflict", "conflict"])
    created = (await paying.create()).json()
    paying.test_app.clock.advance(minutes=1)
    await paying.test_app.sweep()
    (parked,) = (await read(paying, "holds/parked"))["items"]
    assert (parked["request_id"], parked["amount"], parked["user_id"]) == (
        created["id"],
        "0.25",
        "user",
    )
    answer = await paying.post(
        f"{OPERATIONS}/holds/{parked['key']}/decide", json={"charged": False}
    )
    assert answer.json() == {"status": "decided", "messages_replayed": 0}
    assert (await paying.look(created["id"]))["status"] == "PENDING"
    assert await read(paying, "holds/parked") == {"items": []}
    events = (await paying.get(f"{REQUESTS}/{created['id']}/events")).json()["items"]
    decided = next(event for event in events if event["event"] == "hold_decided")
    assert decided["data"] == {"hold": parked["key"], "by": "open", "charged": False}


async def test_decide_hold_unknown_key_is_not_found(client: Caller) -> None:
    answer = await client.post(
        f"{OPERATIONS}/holds/{NOBODY}:samples:1:1/decide", json={"charged": True}
    )
    assert_problem(answer, 404, "not_found")
    answer = await client.post(f"{OPERATIONS}/holds/nonsense/decide", json={"charged": True})
    assert_problem(answer, 422, "invalid_request", pointer="/path/key")


# Usage


async def test_usage_of_a_month_is_exported_as_csv_and_json_lines(paying: Caller) -> None:
    await paying.completed(project_id="spring")
    month = f"{paying.test_app.clock():%Y-%m}"
    answer = await paying.get(f"{OPERATIONS}/usage", params={"month": month})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="usage-{month}.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["action"], row["credits"], row["project_id"]) for row in rows] == [
        ("sample_generation", "0.25", "spring"),
        ("standard_generation", "1.00", "spring"),
    ]
    lines = await paying.get(
        f"{OPERATIONS}/usage",
        params={"month": month, "format": "jsonl", "user_id": "user", "project_id": "spring"},
    )
    assert [json.loads(line)["credits"] for line in lines.text.splitlines()] == ["0.25", "1.00"]
    nothing = await paying.get(f"{OPERATIONS}/usage", params={"month": month, "project_id": "none"})
    assert nothing.text.count("\n") == 1
    answer = await paying.get(f"{OPERATIONS}/usage", params={"month": "2026-13"})
    assert_problem(answer, 422, "invalid_request", pointer="/query/month")


# Reconciliation


async def test_reconcile_difference_is_reported_and_posted_with_apply(paying: Caller) -> None:
    await paying.with_samples()
    await paying.test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await paying.test_app.database.execute(
        "UPDATE holds SET settled_at = $1", paying.test_app.clock()
    )
    paying.test_app.clock.advance(minutes=2)
    looked = (await paying.post(f"{OPERATIONS}/reconcile", json={"hours": 1})).json()
    (found,) = looked["findings"]
    assert (found["difference"], found["mends"], looked["posted"]) == (
        "capture_missing",
        "credits.capture",
        0,
    )
    assert (await paying.post(f"{OPERATIONS}/reconcile", json={"hours": 1, "apply": True})).json()[
        "posted"
    ] == 1
    await paying.test_app.drain()
    assert (await paying.post(f"{OPERATIONS}/reconcile", json={})).json()["findings"] == []
