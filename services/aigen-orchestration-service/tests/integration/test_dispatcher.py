"""The fair queue and the dispatcher: order, window, leases, unconfirmed publications."""

import asyncio
from collections import Counter

import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.ports import PublicationOutcome
from tests.support.app import ServiceUnderTest


async def test_fair_queue_many_jobs_of_one_user_do_not_delay_another(make_test_app) -> None:
    test_app = make_test_app(lane_window=10)
    await test_app.grant("greedy", 0, "pro")
    await test_app.grant("modest", 0, "pro")
    await asyncio.gather(*(test_app.submit("greedy") for _ in range(100)))
    await test_app.dispatch()
    assert len(test_app.engine.published) == 10
    await test_app.submit("modest")
    while not any(job.user_id == "modest" for job in test_app.engine.published):
        await test_app.deliver(test_app.engine.jobs.popleft())
        await test_app.dispatch()
    before = [job.user_id for job in test_app.engine.published].index("modest")
    assert before <= 2 * 10
    await test_app.check(drained=False)


async def test_fair_queue_busy_users_share_by_plan_weight(make_test_app) -> None:
    test_app = make_test_app(lane_window=60)
    await test_app.grant("pro", 0, "pro")
    await test_app.grant("enterprise", 0, "enterprise")
    for _ in range(60):
        await test_app.submit("pro")
        await test_app.submit("enterprise")
    await test_app.dispatch()
    turns = Counter(job.user_id for job in test_app.engine.published)
    assert turns["enterprise"] / turns["pro"] == pytest.approx(2.0, abs=0.2)


async def test_dispatcher_several_processes_never_exceed_the_window(make_test_app) -> None:
    test_apps = [make_test_app(lane_window=7) for _ in range(4)]
    await test_apps[0].grant("user", 0, "pro")
    await asyncio.gather(*(test_apps[0].submit("user") for _ in range(40)))
    done = 0
    while done < 40:
        await asyncio.gather(*(test_app.service.dispatcher.step() for test_app in test_apps))
        lanes = await test_apps[0].service.queries.lanes()
        assert max(lane["in_flight"] for lane in lanes) <= 7
        for test_app in test_apps:
            while test_app.engine.jobs:
                await test_app.deliver(test_app.engine.jobs.popleft())
                done += 1
    published = [job.job_id for test_app in test_apps for job in test_app.engine.published]
    assert len(published) == len(set(published)) == 40
    await test_apps[0].check(drained=False)


async def test_dispatcher_publishes_finals_before_samples(test_app: ServiceUnderTest) -> None:
    chosen = await test_app.with_samples("a")
    await test_app.submit("b")
    await test_app.select(chosen)
    await test_app.dispatch()
    assert [job.stage for job in test_app.engine.published[-2:]] == [Stage.FINAL, Stage.SAMPLES]


async def test_fair_queue_position_is_shown_and_freed_by_a_cancel(make_test_app) -> None:
    test_app = make_test_app(lane_window=1)
    await test_app.submit("first")
    await test_app.dispatch()
    second, third = await test_app.submitted("second"), await test_app.submitted("third")
    position = test_app.service.queries.queue_position
    assert await position(await test_app.look(second)) == 1
    assert await position(await test_app.look(third)) == 2
    await test_app.cancel(second)
    assert await position(await test_app.look(third)) == 1
    assert await position(await test_app.look(second)) is None


@pytest.mark.parametrize("outcome", [PublicationOutcome.REFUSED, PublicationOutcome.UNKNOWN])
async def test_dispatcher_unconfirmed_job_is_published_again_unchanged(
    test_app: ServiceUnderTest, outcome: PublicationOutcome
) -> None:
    request = await test_app.submitted()
    test_app.engine.next_outcomes.append(outcome)
    await test_app.dispatch()
    assert (await test_app.look(request)).state is State.PENDING
    test_app.clock.advance(seconds=3)
    await test_app.dispatch()
    first, second = test_app.engine.published
    assert first.job_id == second.job_id
    assert (await test_app.look(request)).state is State.PROCESSING_SAMPLES
    await test_app.deliver(first)


async def test_dispatcher_without_engine_leaves_jobs_untouched(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    test_app.engine.ready = False
    await test_app.dispatch()
    waiting = await test_app.look(request)
    assert (waiting.state, waiting.version) == (State.PENDING, 1)


async def test_dispatcher_dying_with_a_lease_loses_no_job(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    leased = (await test_app.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    assert (await test_app.look(request)).state is State.PUBLISHING_TO_QUEUE
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.PUBLISHING_TO_QUEUE
    test_app.clock.advance(minutes=2)
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.PENDING
    job = await test_app.next_job()
    assert job.job_id == leased[0].job_id
    await test_app.deliver(job)


async def test_dispatcher_result_after_an_expired_lease_is_accepted(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    leased = (await test_app.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    test_app.clock.advance(minutes=2)
    await test_app.sweep()
    assert (await test_app.deliver(leased[0])).state is State.AWAITING_SELECTION
    await test_app.dispatch()
    assert not test_app.engine.published


async def test_dispatcher_confirm_of_a_cancelled_job_changes_nothing(
    test_app: ServiceUnderTest,
) -> None:
    from creativeflow.services.aigeneration.ports import Publication  # noqa: PLC0415

    request = await test_app.submitted()
    leased = (await test_app.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    await test_app.cancel(request)
    await test_app.jobs.published([(leased[0], Publication(PublicationOutcome.ACCEPTED))])
    assert (await test_app.look(request)).state is State.CANCELLED
    with pytest.raises(errors.StaleResultError):
        await test_app.deliver(leased[0])
