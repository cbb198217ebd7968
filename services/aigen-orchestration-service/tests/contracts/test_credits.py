"""One suite for every credit service behind the Credits port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from billing_desk import billing
from creativeflow.services.aigeneration.adapters.credits_local import LocalCredits
from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsConflictError,
    CreditsRefusedError,
    HoldStatus,
    Reservation,
)
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger

Give = Callable[[str, int, str], Awaitable[None]]
Balance = Callable[[str], Awaitable[int]]


class Bank:
    """A credit service under test, and how its test looks at it from behind."""

    def __init__(
        self,
        credits_: Credits,
        give: Callable[[str, int, str], Awaitable[None]],
        balance: Callable[[str], Awaitable[int]],
    ) -> None:
        self.credits, self.give, self.balance = credits_, give, balance


@asynccontextmanager
async def local_bank(database_url: str) -> AsyncIterator[Bank]:
    """The ledger in our own database."""
    database = Database(database_url)
    ledger = Ledger(database)

    async def give(user_id: str, amount: int, plan: str) -> None:
        await ledger.grant(user_id, amount, operation=f"{user_id}{amount}", reason="test", plan=plan)

    async def balance(user_id: str) -> int:
        return (await ledger.account(user_id)).balance

    yield Bank(LocalCredits(ledger), give, balance)
    assert await database.fetch("SELECT operation FROM credit_entries GROUP BY 1 HAVING sum(amount) <> 0") == []
    await database.close()


@asynccontextmanager
async def billing_bank(database_url: str, port: int) -> AsyncIterator[Bank]:
    """A billing adapter that has what docs/billing-adapter.md asks for."""
    async with billing(database_url, port) as desk:
        yield Bank(desk.credits, desk.give, desk.balance)


@pytest.fixture(params=["local", "billing"])
async def bank(request: pytest.FixtureRequest, database_url: str, complete_billing: int) -> AsyncIterator[Bank]:
    """Every adapter in turn, with a user `rich` who has 100 hundredths on the Pro plan."""
    made = local_bank(database_url) if request.param == "local" else billing_bank(database_url, complete_billing)
    async with made as found:
        await found.give("rich", 100, "pro")
        yield found


def asked(key: str = "k", user: str = "rich", amount: int = 25) -> Reservation:
    return Reservation(key=key, user_id=user, amount=amount, action="sample_generation")


async def hold(bank: Bank, key: str = "k", user: str = "rich", amount: int = 25) -> None:
    await bank.credits.hold(asked(key, user, amount))


async def test_unknown_users_are_on_the_free_plan(bank: Bank) -> None:
    assert (await bank.credits.entitlements("nobody")).plan.name == "free"
    assert (await bank.credits.entitlements("rich")).plan.name == "pro"


async def test_a_hold_takes_the_amount_once_however_often_it_is_asked(bank: Bank) -> None:
    await asyncio.gather(*(hold(bank) for _ in range(20)))
    assert await bank.balance("rich") == 75
    assert await bank.credits.find(asked("k")) is HoldStatus.HELD


async def test_the_same_key_with_another_amount_or_user_is_its_own_error(bank: Bank) -> None:
    await hold(bank)
    with pytest.raises(CreditsConflictError):
        await hold(bank, amount=26)
    with pytest.raises(CreditsConflictError):
        await hold(bank, user="nobody")


async def test_a_refused_hold_leaves_nothing_and_frees_its_key(bank: Bank) -> None:
    with pytest.raises(CreditsRefusedError):
        await hold(bank, amount=101)
    assert await bank.balance("rich") == 100
    assert await bank.credits.find(asked("k")) is HoldStatus.ABSENT
    await hold(bank, amount=100)
    assert await bank.balance("rich") == 0


async def test_a_capture_and_a_release_happen_once_and_exclude_each_other(bank: Bank) -> None:
    await hold(bank, "taken")
    await asyncio.gather(*(bank.credits.capture(asked("taken")) for _ in range(10)))
    with pytest.raises(CreditsConflictError):
        await bank.credits.release(asked("taken"))
    await hold(bank, "given")
    await asyncio.gather(*(bank.credits.release(asked("given")) for _ in range(10)))
    with pytest.raises(CreditsConflictError):
        await bank.credits.capture(asked("given"))
    assert await bank.balance("rich") == 75
    assert await bank.credits.find(asked("taken")) is HoldStatus.CAPTURED
    assert await bank.credits.find(asked("given")) is HoldStatus.RELEASED


async def test_capture_and_release_racing_leave_one_of_them(bank: Bank) -> None:
    for n in range(10):
        await hold(bank, f"k{n}", amount=1)
        await asyncio.gather(
            bank.credits.capture(asked(f"k{n}")), bank.credits.release(asked(f"k{n}")), return_exceptions=True
        )
    found = [await bank.credits.find(asked(f"k{n}")) for n in range(10)]
    assert set(found) <= {HoldStatus.CAPTURED, HoldStatus.RELEASED}
    assert await bank.balance("rich") == 100 - found.count(HoldStatus.CAPTURED)


async def test_a_release_of_what_was_never_held_does_nothing(bank: Bank) -> None:
    await bank.credits.release(asked("never"))
    assert await bank.balance("rich") == 100


async def test_a_release_closes_the_key_against_a_hold_that_arrives_late(bank: Bank) -> None:
    await bank.credits.release(asked("late"))
    with pytest.raises(CreditsConflictError):
        await hold(bank, "late")
    await bank.credits.release(asked("late"))
    assert await bank.credits.find(asked("late")) is HoldStatus.RELEASED
    assert await bank.balance("rich") == 100


async def test_a_release_and_a_hold_at_once_leave_nothing_held(bank: Bank) -> None:
    for n in range(20):
        key = f"both{n}"
        await asyncio.gather(
            hold(bank, key, amount=1), bank.credits.release(asked(key, amount=1)), return_exceptions=True
        )
        assert await bank.credits.find(asked(key)) is HoldStatus.RELEASED
    assert await bank.balance("rich") == 100
    assert await bank.credits.outstanding(datetime.now(UTC) + timedelta(minutes=1), 10) == []


async def test_what_is_neither_captured_nor_released_is_listed(bank: Bank) -> None:
    for key in ("open", "taken", "given"):
        await hold(bank, key, amount=2)
    await bank.credits.capture(asked("taken", amount=2))
    await bank.credits.release(asked("given", amount=2))
    assert await bank.credits.outstanding(datetime.now(UTC) + timedelta(minutes=1), 10) == [asked("open", amount=2)]
    assert await bank.credits.outstanding(datetime.now(UTC) - timedelta(minutes=1), 10) == []


async def test_a_capture_of_what_was_never_held_is_a_conflict(bank: Bank) -> None:
    with pytest.raises(CreditsConflictError):
        await bank.credits.capture(asked("never"))


async def test_a_released_hold_cannot_be_held_again_under_its_key(bank: Bank) -> None:
    await hold(bank)
    await bank.credits.release(asked("k"))
    with pytest.raises(CreditsConflictError):
        await hold(bank)


async def test_many_callers_never_overdraw(bank: Bank) -> None:
    told = await asyncio.gather(*(hold(bank, f"k{n}", amount=5) for n in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in told) == 20
    assert sum(isinstance(outcome, CreditsRefusedError) for outcome in told) == 30
    assert await bank.balance("rich") == 0
