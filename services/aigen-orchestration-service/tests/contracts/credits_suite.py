"""The contract of the Credits port; a module that imports these cases provides the fixture
`bank`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsConflictError,
    CreditsRefusedError,
    HoldStatus,
    Reservation,
)

Give = Callable[[str, int, str], Awaitable[None]]
Balance = Callable[[str], Awaitable[int]]
LISTED = 1000
"""Maximum number of listed holds: a shared credit service must have fewer open ones."""


class Bank:
    """A credit service under test, with access to its state.

    Users and keys are unique to the test, so that tests can share a service.
    """

    def __init__(self, credits_: Credits, give: Give, balance: Balance) -> None:
        self.credits, self._give, self._balance = credits_, give, balance
        self.prefix = uuid4().hex[:12]

    @property
    def rich(self) -> str:
        """The user with credits."""
        return f"rich-{self.prefix}"

    async def open(self) -> None:
        """Give the user 100 hundredths, on the Pro plan."""
        await self._give(self.rich, 100, "pro")

    async def balance(self) -> int:
        """Return the user's balance, in hundredths."""
        return await self._balance(self.rich)

    async def outstanding(self, before: datetime) -> list[Reservation]:
        """Return the user's open holds."""
        listed = await self.credits.outstanding(before, LISTED)
        return [hold for hold in listed or () if hold.user_id == self.rich]

    def asked(self, key: str = "k", *, user: str | None = None, amount: int = 25) -> Reservation:
        """Return a reservation with a key unique to the test."""
        return Reservation(
            key=f"{self.prefix}:{key}",
            user_id=user or self.rich,
            amount=amount,
            action="sample_generation",
        )

    async def hold(self, key: str = "k", *, user: str | None = None, amount: int = 25) -> None:
        """Place a hold."""
        await self.credits.hold(self.asked(key, user=user, amount=amount))


async def test_entitlements_of_unknown_users_are_the_free_plan(bank: Bank) -> None:
    assert (await bank.credits.entitlements("nobody")).plan.name == "free"
    assert (await bank.credits.entitlements(bank.rich)).plan.name == "pro"


async def test_hold_repeated_takes_the_amount_once(bank: Bank) -> None:
    await asyncio.gather(*(bank.hold() for _ in range(20)))
    assert await bank.balance() == 75
    assert await bank.credits.find(bank.asked("k")) is HoldStatus.HELD


async def test_hold_same_key_with_other_facts_is_a_conflict(bank: Bank) -> None:
    await bank.hold()
    with pytest.raises(CreditsConflictError):
        await bank.hold(amount=26)
    with pytest.raises(CreditsConflictError):
        await bank.hold(user="nobody")


async def test_hold_refused_leaves_nothing_and_frees_its_key(bank: Bank) -> None:
    with pytest.raises(CreditsRefusedError):
        await bank.hold(amount=101)
    assert await bank.balance() == 100
    assert await bank.credits.find(bank.asked("k")) is HoldStatus.ABSENT
    await bank.hold(amount=100)
    assert await bank.balance() == 0


async def test_capture_and_release_happen_once_and_exclude_each_other(bank: Bank) -> None:
    await bank.hold("taken")
    await asyncio.gather(*(bank.credits.capture(bank.asked("taken")) for _ in range(10)))
    with pytest.raises(CreditsConflictError):
        await bank.credits.release(bank.asked("taken"))
    await bank.hold("given")
    await asyncio.gather(*(bank.credits.release(bank.asked("given")) for _ in range(10)))
    with pytest.raises(CreditsConflictError):
        await bank.credits.capture(bank.asked("given"))
    assert await bank.balance() == 75
    assert await bank.credits.find(bank.asked("taken")) is HoldStatus.CAPTURED
    assert await bank.credits.find(bank.asked("given")) is HoldStatus.RELEASED


async def test_capture_and_release_concurrent_leave_one(bank: Bank) -> None:
    for n in range(10):
        await bank.hold(f"k{n}", amount=1)
        await asyncio.gather(
            bank.credits.capture(bank.asked(f"k{n}")),
            bank.credits.release(bank.asked(f"k{n}")),
            return_exceptions=True,
        )
    found = [await bank.credits.find(bank.asked(f"k{n}")) for n in range(10)]
    assert set(found) <= {HoldStatus.CAPTURED, HoldStatus.RELEASED}
    assert await bank.balance() == 100 - found.count(HoldStatus.CAPTURED)


async def test_release_without_hold_does_nothing(bank: Bank) -> None:
    await bank.credits.release(bank.asked("never"))
    assert await bank.balance() == 100


async def test_release_closes_the_key_for_a_late_hold(bank: Bank) -> None:
    await bank.credits.release(bank.asked("late"))
    with pytest.raises(CreditsConflictError):
        await bank.hold("late")
    await bank.credits.release(bank.asked("late"))
    assert await bank.credits.find(bank.asked("late")) is HoldStatus.RELEASED
    assert await bank.balance() == 100


async def test_release_and_hold_concurrent_leave_nothing_held(bank: Bank) -> None:
    for n in range(20):
        key = f"both{n}"
        await asyncio.gather(
            bank.hold(key, amount=1), bank.credits.release(bank.asked(key)), return_exceptions=True
        )
        assert await bank.credits.find(bank.asked(key)) is HoldStatus.RELEASED
    assert await bank.balance() == 100
    assert await bank.outstanding(datetime.now(UTC) + timedelta(minutes=1)) == []


async def test_outstanding_lists_open_holds(bank: Bank) -> None:
    for key in ("open", "taken", "given"):
        await bank.hold(key, amount=2)
    await bank.credits.capture(bank.asked("taken", amount=2))
    await bank.credits.release(bank.asked("given", amount=2))
    assert await bank.outstanding(datetime.now(UTC) + timedelta(minutes=1)) == [
        bank.asked("open", amount=2)
    ]
    assert await bank.outstanding(datetime.now(UTC) - timedelta(minutes=1)) == []


async def test_capture_without_hold_is_a_conflict(bank: Bank) -> None:
    with pytest.raises(CreditsConflictError):
        await bank.credits.capture(bank.asked("never"))


async def test_hold_after_release_under_the_same_key_is_a_conflict(bank: Bank) -> None:
    await bank.hold()
    await bank.credits.release(bank.asked("k"))
    with pytest.raises(CreditsConflictError):
        await bank.hold()


async def test_hold_concurrent_never_overdraws(bank: Bank) -> None:
    told = await asyncio.gather(
        *(bank.hold(f"k{n}", amount=5) for n in range(50)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in told) == 20
    assert sum(isinstance(outcome, CreditsRefusedError) for outcome in told) == 30
    assert await bank.balance() == 0
