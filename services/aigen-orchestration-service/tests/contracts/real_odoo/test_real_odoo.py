"""The suite of the Credits port on a real Odoo with the addon; ODOO_LOGIN must be a CreativeFlow
manager.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from creativeflow.services.aigeneration.adapters.credits.odoo import MODEL, OdooCredits
from creativeflow.services.aigeneration.adapters.credits.odoo_rpc import OdooCalls
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.ports import CreditsUnknownError, HoldStatus
from tests.contracts.credits_suite import *  # noqa: F403 - the cases, run here on the fixture below
from tests.contracts.credits_suite import Bank

URL, DATABASE, LOGIN, KEY = (
    os.environ.get(name, "") for name in ("ODOO_URL", "ODOO_DB", "ODOO_LOGIN", "ODOO_API_KEY")
)


class Manager:
    """Manages accounts in Odoo over JSON-RPC; signs in once for all tests."""

    _uid: int | None = None

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def give(self, user_id: str, amount: int, plan: str) -> None:
        """Create an account with this many hundredths."""
        account = await self._do(
            "creativeflow.credit.account", "create", {"user_ref": user_id, "plan": plan}
        )
        grant = {
            "account_id": account,
            "amount": credits_text(amount),
            "reason": "tests",
            "operation": str(uuid4()),
        }
        await self._do(
            "creativeflow.credit.grant",
            "action_grant",
            [await self._do("creativeflow.credit.grant", "create", grant)],
        )

    async def balance(self, user_id: str) -> int:
        """Return the balance of an account, after checking that its statement adds up."""
        fields = ["balance", "movement_ids"]
        (account,) = await self._do(
            "creativeflow.credit.account", "search_read", [("user_ref", "=", user_id)], fields
        )
        movements = await self._do(
            "creativeflow.credit.movement", "read", account["movement_ids"], ["change"]
        )
        assert sum(movement["change"] for movement in movements) == account["balance"]
        return int(account["balance"])

    async def _do(self, model: str, method: str, *arguments: Any) -> Any:
        if Manager._uid is None:
            Manager._uid = await self._rpc("common", "authenticate", DATABASE, LOGIN, KEY, {})
        return await self._rpc(
            "object", "execute_kw", DATABASE, Manager._uid, KEY, model, method, list(arguments), {}
        )

    async def _rpc(self, service: str, method: str, *arguments: Any) -> Any:
        params = {"service": service, "method": method, "args": arguments}
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        told = (await self._client.post(f"{URL}/jsonrpc", json=body, timeout=30)).json()
        assert "error" not in told, told["error"]["data"]["message"]
        return told["result"]


def adapter(client: httpx.AsyncClient, api: Any, *, deadline_seconds: float = 30.0) -> OdooCredits:
    return OdooCredits(
        OdooCalls(
            client,
            base_url=URL,
            database=DATABASE,
            login=LOGIN,
            api_key=KEY,
            model=MODEL,
            api=api,
            deadline_seconds=deadline_seconds,
        )
    )


@pytest.fixture(params=["auto", "jsonrpc"])
async def bank(request: pytest.FixtureRequest) -> AsyncIterator[Bank]:
    """The Odoo over its newest and its older protocol; releases what a test leaves held."""
    async with httpx.AsyncClient() as client:
        manager = Manager(client)
        made = Bank(adapter(client, request.param), manager.give, manager.balance)
        await made.open()
        yield made
        for hold in await made.outstanding(datetime.now(UTC) + timedelta(minutes=1)):
            await made.credits.release(hold)


async def test_hold_concurrent_takes_exactly_the_balance(bank: Bank) -> None:
    told = await asyncio.gather(
        *(bank.hold(f"k{n}", amount=5) for n in range(32)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in told) == 20
    assert await bank.balance() == 0


async def test_hold_of_a_cut_off_caller_is_found_by_its_key(bank: Bank) -> None:
    async with httpx.AsyncClient() as client:
        hasty = adapter(client, "jsonrpc", deadline_seconds=30)
        await hasty.find(bank.asked())
        call = asyncio.create_task(hasty.hold(bank.asked()))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await bank.hold()
    assert await bank.credits.find(bank.asked()) is HoldStatus.HELD
    assert await bank.balance() == 75


async def test_call_wrong_key_is_unknown() -> None:
    async with httpx.AsyncClient() as client:
        calls = OdooCalls(
            client,
            base_url=URL,
            database=DATABASE,
            login=LOGIN,
            api_key="wrong",
            model=MODEL,
            deadline_seconds=30,
        )
        with pytest.raises(CreditsUnknownError):
            await OdooCredits(calls).entitlements("anybody")
