"""The suite of the Credits port on every adapter: local ledger, billing adapter, and both
generations of Odoo.
"""

from collections.abc import AsyncIterator

import httpx
import pytest

from creativeflow.services.aigeneration.adapters.credits.local import LocalCredits
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger
from tests.contracts.credits_suite import *  # noqa: F403 - the cases, run here on the fixture below
from tests.contracts.credits_suite import Bank
from tests.support.fake_billing_client import billing
from tests.support.fake_odoo import StandIn


@pytest.fixture(params=["local", "billing", "odoo_18", "odoo_19"])
def place(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Bank]:
    """The credit service under test."""
    match request.param:
        case "local":
            return _ledger(database_url)
        case "billing":
            return _billing(database_url, request.getfixturevalue("complete_billing"))
        case odoo:
            return _odoo(request.getfixturevalue(odoo))


@pytest.fixture
async def bank(place: AsyncIterator[Bank]) -> AsyncIterator[Bank]:
    """Every adapter in turn."""
    async for made in place:
        await made.open()
        yield made


async def _ledger(database_url: str) -> AsyncIterator[Bank]:
    database = Database(database_url)
    ledger = Ledger(database)

    async def give(user_id: str, amount: int, plan: str) -> None:
        await ledger.grant(
            user_id, amount, operation=f"{user_id}{amount}", reason="test", plan=plan
        )

    async def balance(user_id: str) -> int:
        return (await ledger.account(user_id)).balance

    yield Bank(LocalCredits(ledger), give, balance)
    assert (
        await database.fetch(
            "SELECT operation FROM credit_entries GROUP BY 1 HAVING sum(amount) <> 0"
        )
        == []
    )
    await database.close()


async def _odoo(stand_in: StandIn) -> AsyncIterator[Bank]:
    async with httpx.AsyncClient() as client:
        yield Bank(stand_in.credits(client), stand_in.give, stand_in.balance)


async def _billing(database_url: str, port: int) -> AsyncIterator[Bank]:
    """Return a billing adapter with all recommended additions."""
    async with billing(database_url, port, call_seconds=5.0) as fake_billing:
        yield Bank(fake_billing.credits, fake_billing.give, fake_billing.balance)
