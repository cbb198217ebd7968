"""The client of the billing adapter against a fake adapter in a separate process, with control of
both.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from creativeflow.services.aigeneration.adapters.credits.billing import (
    BillingCredits,
    BillingRoutes,
)
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.storage.billing_journal import BillingJournal
from creativeflow.services.aigeneration.storage.database import Database
from tests.support.fake_billing import KEY
from tests.support.processes import free_port, process, wait_ready_now

LOOKUP = "/users/{user_id}/credits/operations/{key}"


class FakeBilling:
    """One client of the adapter; `control` steers the adapter."""

    def __init__(
        self, port: int, credits_: BillingCredits, http: httpx.AsyncClient, database: Database
    ) -> None:
        self.port, self.credits, self.database = port, credits_, database
        self._http = http

    async def control(self, **told: Any) -> dict[str, Any]:
        """Control the adapter and return its state."""
        answer = await self._http.post(f"http://127.0.0.1:{self.port}/_control", json=told)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def give(self, user_id: str, amount: int, plan: str, **more: Any) -> None:
        """Set an account with a balance (1/100) and a subscription."""
        subscription = {
            "current_plan_name": plan.title(),
            "status": "Active",
            "features": {},
            "freemium_generations_remaining": 0,
        }
        subscription |= more.pop("subscription", {})
        account = {"balance": str(Decimal(amount) / 100), "subscription": subscription, **more}
        await self.control(accounts={user_id: account})

    async def balance(self, user_id: str) -> int:
        """Return the user's balance at the adapter, in 1/100 credit."""
        return int(Decimal((await self.control())["balances"][user_id]) * 100)


@contextmanager
def billing_process(*, complete: bool) -> Iterator[int]:
    """Run the fake adapter; yield its port."""
    port = free_port()
    arguments = [str(Path(__file__).with_name("fake_billing.py")), "--port", str(port)]
    with process(
        [*arguments, *(["--complete"] if complete else [])], {"PYTHONPATH": ":".join(sys.path)}
    ) as running:
        wait_ready_now(port, running, "/_control")
        yield port


@asynccontextmanager
async def billing(database_url: str, port: int, **more: Any) -> AsyncIterator[FakeBilling]:
    """Yield a client with a journal; `refund` and `lookup` are its routes, the rest are constructor
    arguments.
    """
    routes = BillingRoutes(
        base_url=f"http://127.0.0.1:{port}/api/v1",
        **{n: more.pop(n) for n in ("refund", "lookup", "plan_names") if n in more},
    )
    database = Database(database_url)
    async with httpx.AsyncClient(trust_env=False) as http:
        told = {"api_key": KEY, "now": clock.now, "call_seconds": 1.0, "pause_seconds": 0.01} | more
        fake_billing = FakeBilling(
            port, BillingCredits(http, BillingJournal(database), routes, **told), http, database
        )
        await fake_billing.control(reset=True)
        yield fake_billing
        await database.close()
