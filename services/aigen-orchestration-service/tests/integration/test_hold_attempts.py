"""Each asking for credits has a key of its own: a late answer to one never lands on the next."""

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
async def _exact(world: ServiceUnderTest):
    yield
    await world.check()


async def refused_once(world: ServiceUnderTest) -> GenerationRequest:
    """A request whose final has been asked for and refused for lack of credits, half a minute
    ago.
    """
    await world.grant("user", 25, plan="payg")
    request = await world.with_samples("user")
    with pytest.raises(errors.InsufficientCreditsError):
        await world.select(request)
    world.clock.advance(seconds=30)
    return await world.look(request)


def finals(request: GenerationRequest) -> list[tuple[str, HoldState]]:
    return [
        (hold.key.rpartition(":")[2], hold.state) for hold in request.holds if hold.stage == "final"
    ]


class Answers:
    """A credit service whose answers travel as long as the test wants; `asked` are the keys in
    their order.
    """

    def __init__(self, world: ServiceUnderTest) -> None:
        self.asked: list[str] = []
        self.gates: list[asyncio.Event] = []
        self.refuse: set[int] = set()
        self._hold = world.credits.hold
        world.credits.hold = self.hold  # type: ignore[method-assign]

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


async def test_select_again_after_a_refusal_asks_under_a_new_key(world: ServiceUnderTest) -> None:
    request = await refused_once(world)
    await world.grant("user", 500)
    await world.select(request)
    after = await world.look(request)
    assert finals(after) == [("1", HoldState.REFUSED), ("2", HoldState.HELD)]
    await world.deliver(await world.next_job())
    await world.drain()
    assert await world.balance() == 400


async def test_sweeper_leaves_a_second_asking_its_own_grace_period(world: ServiceUnderTest) -> None:
    request = await refused_once(world)
    await world.grant("user", 500)
    answers = Answers(world)
    again = asyncio.create_task(world.select(request))
    await answers.are(1)
    await world.sweep()
    assert len(answers.asked) == 1
    answers.gates[0].set()
    assert (await again).answer.status == 202


async def test_late_refusal_of_the_first_asking_leaves_the_second_untouched(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, plan="payg")
    request = await world.with_samples("user")
    answers = Answers(world)
    answers.refuse = {0, 1}
    first = asyncio.create_task(world.select(request))
    await answers.are(1)
    world.clock.advance(seconds=30)
    sweep = asyncio.create_task(world.sweep())  # asks beside the caller, under the same key
    await answers.are(2)
    answers.gates[0].set()
    with pytest.raises(errors.InsufficientCreditsError):
        await first
    await world.grant("user", 500)
    second = asyncio.create_task(world.select(request))
    await answers.are(3)
    answers.gates[1].set()  # the late refusal arrives while the second asking is being placed
    await sweep
    assert finals(await world.look(request)) == [("1", HoldState.REFUSED), ("2", HoldState.PLACING)]
    answers.gates[2].set()
    assert (await second).answer.status == 202
    after = await world.look(request)
    assert (after.state, finals(after)[1]) == (State.PENDING, ("2", HoldState.HELD))
    assert len(set(answers.asked)) == 2


async def test_late_acceptance_of_a_refused_asking_is_given_back(world: ServiceUnderTest) -> None:
    await world.grant("user", 25, plan="payg")
    request = await world.with_samples("user")
    answers = Answers(world)
    answers.refuse = {0}
    first = asyncio.create_task(world.select(request))
    await answers.are(1)
    world.clock.advance(seconds=30)
    sweep = asyncio.create_task(world.sweep())
    await answers.are(2)
    answers.gates[0].set()
    with pytest.raises(errors.InsufficientCreditsError):
        await first
    await world.grant("user", 500)
    answers.gates[1].set()
    await sweep
    assert await world.balance() == 400  # the credit service holds it, and a release is queued
    await world.drain()
    assert await world.balance() == 500
    assert finals(await world.look(request)) == [("1", HoldState.REFUSED)]
    assert "credits_released_late" in await world.events(request)


async def test_reconciliation_posts_nothing_for_a_hold_that_has_changed_since(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, plan="payg")
    request = await world.submitted("user")
    comparison = world.service.reconciliation._comparison  # noqa: SLF001
    [booked] = await comparison.by_keys([request.holds[0].key])
    await world.cancel(request)
    assert not await comparison.post(
        "credits.capture", booked.reservation(), booked, by="test", now=world.clock()
    )


async def test_reconcile_apply_beside_a_new_asking_charges_it_once(world: ServiceUnderTest) -> None:
    request = await refused_once(world)
    await world.grant("user", 1000)
    key = request.holds[-1].key
    assert await Ledger(world.database).hold(
        key, user_id="user", amount=100, action="standard_generation"
    )
    world.clock.advance(minutes=5)
    comparison = world.service.reconciliation._comparison  # noqa: SLF001
    post = comparison.post

    async def beside(*args: Any, **options: Any) -> bool:
        await world.select(request)
        return await post(*args, **options)

    comparison.post = beside  # type: ignore[method-assign]
    await world.service.reconciliation.run(LONG_AGO, apply=True)
    await world.drain()
    await world.deliver(await world.next_job())
    await world.drain()
    after = await world.look(request)
    assert (after.state, await world.balance()) == (State.COMPLETED, 900)
