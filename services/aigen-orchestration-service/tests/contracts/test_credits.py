"""The suite of the Credits port on every adapter: our own ledger, and Odoo as both of its generations speak."""

from collections.abc import AsyncIterator

import httpx
import pytest

from creativeflow.services.aigeneration.adapters.credits_local import LocalCredits
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger
from credits_suite import *  # noqa: F403 - the cases, run here on the fixture below
from credits_suite import Bank
from odoo_stand_in import StandIn


@pytest.fixture(params=["local", "odoo_18", "odoo_19"])
def place(request: pytest.FixtureRequest) -> str | StandIn:
    """Where credits are kept: the URL of our own database, or an Odoo."""
    found: str | StandIn = request.getfixturevalue("database_url" if request.param == "local" else request.param)
    return found


@pytest.fixture
async def bank(place: str | StandIn) -> AsyncIterator[Bank]:
    """Every adapter in turn."""
    async for made in _ledger(place) if isinstance(place, str) else _odoo(place):
        await made.open()
        yield made


async def _ledger(database_url: str) -> AsyncIterator[Bank]:
    database = Database(database_url)
    ledger = Ledger(database)

    async def give(user_id: str, amount: int, plan: str) -> None:
        await ledger.grant(user_id, amount, operation=f"{user_id}{amount}", reason="test", plan=plan)

    async def balance(user_id: str) -> int:
        return (await ledger.account(user_id)).balance

    yield Bank(LocalCredits(ledger), give, balance)
    assert await database.fetch("SELECT operation FROM credit_entries GROUP BY 1 HAVING sum(amount) <> 0") == []
    await database.close()


async def _odoo(stand_in: StandIn) -> AsyncIterator[Bank]:
    async with httpx.AsyncClient() as client:
        yield Bank(stand_in.credits(client), stand_in.give, stand_in.balance)
