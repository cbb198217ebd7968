"""Each hold attempt has its own key: a late response to one is never applied to the next."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.ports import CreditsRefusedError
from creativeflow.services.aigeneration.storage.ledger import Ledger
from tests.support.app import ServiceUnderTest

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
async def _exact(test_app: ServiceUnderTest):
    yield
    await test_app.check()


async def refused_once(test_app: ServiceUnderTest) -> GenerationRequest:
    """Return a request whose final was refused for lack of credits half a minute ago."""
    await test_app.grant("user", 25, plan="payg")
    request = await test_app.with_samples("user")
    with pytest.raises(errors.InsufficientCreditsError):
        await test_app.select(request)
    test_app.clock.advance(seconds=30)
    return await test_app.look(request)


def finals(request: GenerationRequest) -> list[tuple[str, HoldState]]:
    return [
        (hold.key.rpartition(":")[2], hold.state) for hold in request.holds if hold.stage == "final"
    ]


class Answers:
    """A credit service whose responses the test delays; `asked` are the keys in order."""

    def __init__(self, test_app: ServiceUnderTest) -> None:
        self.asked: list[str] = []
        self.gates: list[asyncio.Event] = []
        self.refuse: set[int] = set()
        self._hold = test_app.credits.hold
        test_app.credits.hold = self.hold  # type: ignore[method-assign]

    async def hold(self, reservation: Any) -> None:
        number = len(self.asked)
        self.asked.append(reservation.key)
        self.gates.append(asyncio.Event())
        await self.gates[number].wait()
        if number in self.refuse:
            raise CreditsRefusedError
        await self._hold(reservation)

    async def are(self, count: int) -> None:
        while len(self.asked) < count:
            await asyncio.sleep(0)


async def test_select_again_after_a_refusal_asks_under_a_new_key(
    test_app: ServiceUnderTest,
) -> None:
    request = await refused_once(test_app)
    await test_app.grant("user", 500)
    await test_app.select(request)
    after = await test_app.look(request)
    assert finals(after) == [("1", HoldState.REFUSED), ("2", HoldState.HELD)]
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert await test_app.balance() == 400


async def test_sweeper_leaves_a_second_asking_its_own_grace_period(
    test_app: ServiceUnderTest,
) -> None:
    request = await refused_once(test_app)
    await test_app.grant("user", 500)
    answers = Answers(test_app)
    again = asyncio.create_task(test_app.select(request))
    await answers.are(1)
    await test_app.sweep()
    assert len(answers.asked) == 1
    answers.gates[0].set()
    assert (await again).answer.status == 202


async def test_late_refusal_of_the_first_asking_leaves_the_second_untouched(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25, plan="payg")
    request = await test_app.with_samples("user")
    answers = Answers(test_app)
    answers.refuse = {0, 1}
    first = asyncio.create_task(test_app.select(request))
    await answers.are(1)
    test_app.clock.advance(seconds=30)
    sweep = asyncio.create_task(
        test_app.sweep()
    )  # the sweeper, concurrently with the caller, under the same key
    await answers.are(2)
    answers.gates[0].set()
    with pytest.raises(errors.InsufficientCreditsError):
        await first
    await test_app.grant("user", 500)
    second = asyncio.create_task(test_app.select(request))
    await answers.are(3)
    answers.gates[1].set()  # the late refusal arrives while the second attempt is being placed
    await sweep
    assert finals(await test_app.look(request)) == [
        ("1", HoldState.REFUSED),
        ("2", HoldState.PLACING),
    ]
    answers.gates[2].set()
    assert (await second).answer.status == 202
    after = await test_app.look(request)
    assert (after.state, finals(after)[1]) == (State.PENDING, ("2", HoldState.HELD))
    assert len(set(answers.asked)) == 2


async def test_late_acceptance_of_a_refused_asking_is_given_back(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25, plan="payg")
    request = await test_app.with_samples("user")
    answers = Answers(test_app)
    answers.refuse = {0}
    first = asyncio.create_task(test_app.select(request))
    await answers.are(1)
    test_app.clock.advance(seconds=30)
    sweep = asyncio.create_task(test_app.sweep())
    await answers.are(2)
    answers.gates[0].set()
    with pytest.raises(errors.InsufficientCreditsError):
        await first
    await test_app.grant("user", 500)
    answers.gates[1].set()
    await sweep
    assert await test_app.balance() == 400  # the credit service holds it, and a release is queued
    await test_app.drain()
    assert await test_app.balance() == 500
    assert finals(await test_app.look(request)) == [("1", HoldState.REFUSED)]
    assert "credits_released_late" in await test_app.events(request)


async def test_reconciliation_posts_nothing_for_a_hold_that_has_changed_since(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 500, plan="payg")
    request = await test_app.submitted("user")
    store = test_app.service.reconciliation._store  # noqa: SLF001
    [booked] = await store.by_keys([request.holds[0].key])
    await test_app.cancel(request)
    assert not await store.post(
        "credits.capture", booked.reservation(), booked, by="test", now=test_app.clock()
    )


async def test_reconcile_apply_beside_a_new_asking_charges_it_once(
    test_app: ServiceUnderTest,
) -> None:
    request = await refused_once(test_app)
    await test_app.grant("user", 1000)
    key = request.holds[-1].key
    assert await Ledger(test_app.database).hold(
        key, user_id="user", amount=100, action="standard_generation"
    )
    test_app.clock.advance(minutes=5)
    store = test_app.service.reconciliation._store  # noqa: SLF001
    post = store.post

    async def beside(*args: Any, **options: Any) -> bool:
        await test_app.select(request)
        return await post(*args, **options)

    store.post = beside  # type: ignore[method-assign]
    await test_app.service.reconciliation.run(LONG_AGO, apply=True)
    await test_app.drain()
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    after = await test_app.look(request)
    assert (after.state, await test_app.balance()) == (State.COMPLETED, 900)
