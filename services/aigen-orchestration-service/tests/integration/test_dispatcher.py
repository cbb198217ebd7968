"""The fair queue and the way to the broker: order, window, leases, and what happens when the broker
does not answer.
"""

import asyncio
from collections import Counter

import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.ports import PublicationOutcome
from tests.support.app import ServiceUnderTest


async def test_one_users_many_jobs_never_stand_before_anothers_one(make_world) -> None:
    world = make_world(lane_window=10)
    await world.grant("greedy", 0, "pro")
    await world.grant("modest", 0, "pro")
    await asyncio.gather(*(world.submit("greedy") for _ in range(100)))
    await world.dispatch()
    assert len(world.engine.published) == 10
    await world.submit("modest")
    while not any(job.user_id == "modest" for job in world.engine.published):
        await world.deliver(world.engine.jobs.popleft())
        await world.dispatch()
    before = [job.user_id for job in world.engine.published].index("modest")
    assert before <= 2 * 10
    await world.check(drained=False)


async def test_two_busy_users_get_their_turns_by_plan_weight(make_world) -> None:
    world = make_world(lane_window=60)
    await world.grant("pro", 0, "pro")
    await world.grant("enterprise", 0, "enterprise")
    for _ in range(60):
        await world.submit("pro")
        await world.submit("enterprise")
    await world.dispatch()
    turns = Counter(job.user_id for job in world.engine.published)
    assert turns["enterprise"] / turns["pro"] == pytest.approx(2.0, abs=0.2)


async def test_the_window_is_never_exceeded_by_any_number_of_dispatchers(make_world) -> None:
    worlds = [make_world(lane_window=7) for _ in range(4)]
    await worlds[0].grant("user", 0, "pro")
    await asyncio.gather(*(worlds[0].submit("user") for _ in range(40)))
    done = 0
    while done < 40:
        await asyncio.gather(*(world.service.dispatcher.step() for world in worlds))
        lanes = await worlds[0].service.queries.lanes()
        assert max(lane["in_flight"] for lane in lanes) <= 7
        for world in worlds:
            while world.engine.jobs:
                await world.deliver(world.engine.jobs.popleft())
                done += 1
    published = [job.job_id for world in worlds for job in world.engine.published]
    assert len(published) == len(set(published)) == 40
    await worlds[0].check(drained=False)


async def test_finals_go_before_samples(world: ServiceUnderTest) -> None:
    chosen = await world.with_samples("a")
    await world.submit("b")
    await world.select(chosen)
    await world.dispatch()
    assert [job.stage for job in world.engine.published[-2:]] == [Stage.FINAL, Stage.SAMPLES]


async def test_the_queue_position_is_shown_and_cancelling_frees_the_place(make_world) -> None:
    world = make_world(lane_window=1)
    await world.submit("first")
    await world.dispatch()
    second, third = await world.submitted("second"), await world.submitted("third")
    position = world.service.queries.queue_position
    assert await position(await world.look(second)) == 1
    assert await position(await world.look(third)) == 2
    await world.cancel(second)
    assert await position(await world.look(third)) == 1
    assert await position(await world.look(second)) is None


@pytest.mark.parametrize("outcome", [PublicationOutcome.REFUSED, PublicationOutcome.UNKNOWN])
async def test_a_job_the_broker_did_not_confirm_is_published_again_as_the_same_job(
    world: ServiceUnderTest, outcome: PublicationOutcome
) -> None:
    request = await world.submitted()
    world.engine.next_outcomes.append(outcome)
    await world.dispatch()
    assert (await world.look(request)).state is State.PENDING
    world.clock.advance(seconds=3)
    await world.dispatch()
    first, second = world.engine.published
    assert first.job_id == second.job_id
    assert (await world.look(request)).state is State.PROCESSING_SAMPLES
    await world.deliver(first)


async def test_while_the_engine_is_away_jobs_wait_without_being_touched(
    world: ServiceUnderTest,
) -> None:
    request = await world.submitted()
    world.engine.ready = False
    await world.dispatch()
    waiting = await world.look(request)
    assert (waiting.state, waiting.version) == (State.PENDING, 1)


async def test_a_dispatcher_that_dies_with_a_leased_job_loses_nothing(
    world: ServiceUnderTest,
) -> None:
    request = await world.submitted()
    leased = (await world.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    assert (await world.look(request)).state is State.PUBLISHING_TO_QUEUE
    await world.sweep()
    assert (await world.look(request)).state is State.PUBLISHING_TO_QUEUE
    world.clock.advance(minutes=2)
    await world.sweep()
    assert (await world.look(request)).state is State.PENDING
    job = await world.next_job()
    assert job.job_id == leased[0].job_id
    await world.deliver(job)


async def test_a_worker_that_got_a_job_whose_lease_expired_may_still_answer(
    world: ServiceUnderTest,
) -> None:
    await world.submitted()
    leased = (await world.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    world.clock.advance(minutes=2)
    await world.sweep()
    assert (await world.deliver(leased[0])).state is State.AWAITING_SELECTION
    await world.dispatch()
    assert not world.engine.published


async def test_a_cancelled_job_that_was_leased_is_not_brought_back_by_its_confirm(
    world: ServiceUnderTest,
) -> None:
    from creativeflow.services.aigeneration.ports import Publication  # noqa: PLC0415

    request = await world.submitted()
    leased = (await world.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    await world.cancel(request)
    await world.jobs.published([(leased[0], Publication(PublicationOutcome.ACCEPTED))])
    assert (await world.look(request)).state is State.CANCELLED
    with pytest.raises(errors.StaleResultError):
        await world.deliver(leased[0])
