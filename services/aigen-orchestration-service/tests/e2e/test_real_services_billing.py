"""Serving processes with credits in a failing billing adapter."""

import asyncio
from decimal import Decimal

import httpx

from tests.support.fake_billing import KEY
from tests.support.fake_billing_client import LOOKUP
from tests.support.running_system import USER, Parts

WORKER_ERRORS = [
    "error_after",
    "",
    "drop_after",
    "turned_away",
    "wrong_body",
    "",
    "error_before",
    "twice",
    "",
    "slow",
]


async def control(parts: Parts, port: int, **told: object) -> dict[str, dict[str, str]]:
    """Control the adapter and return its state."""
    answer = await parts.client.post(f"http://127.0.0.1:{port}/_control", json=told)
    found: dict[str, dict[str, str]] = answer.raise_for_status().json()
    return found


async def test_billing_adapter_any_behaviour_leaves_exact_balances(
    parts: Parts, complete_billing: int
) -> None:
    features = {"unlimited_standard_generations": False}
    subscription = {"current_plan_name": "Pro", "status": "Active", "features": features}
    account = {"balance": "100.00", "subscription": subscription}
    await control(parts, complete_billing, reset=True, accounts={USER: account})
    told = {
        "AIGEN_CREDITS_URL": f"http://127.0.0.1:{complete_billing}/api/v1",
        "AIGEN_CREDITS_API_KEY": KEY,
        "AIGEN_CREDITS_LOOKUP_PATH": LOOKUP,
        "AIGEN_CREDITS_CALL_TIMEOUT": "1",
        "AIGEN_HOLD_TIMEOUT": "0.5",
    }
    first, second = await asyncio.gather(parts.serve(**told), parts.serve(**told))
    parts.work("well")
    await control(parts, complete_billing, faults=WORKER_ERRORS)
    ended = await asyncio.gather(
        *(parts.live(first if n % 2 else second, seconds=120) for n in range(10))
    )
    assert [request["status"] for request in ended] == ["COMPLETED"] * 10
    assert {request["cost"]["total"] for request in ended} == {"2.25"}
    await parts.drained()
    books = await control(parts, complete_billing)
    assert Decimal(books["balances"][USER]) == Decimal(100) - 10 * Decimal("2.25")
    answer = await parts.call("POST", "/operations/reconcile", json={"hours": 1})
    assert (answer.status_code, answer.json()["findings"]) == (httpx.codes.OK, [])
