"""A process publishes the jobs that it queues right after their commit, and writes the broker's
confirm with the worker's first report; what it does not come to is left to the dispatchers.
"""

import asyncio
from typing import Any

import pytest

from creativeflow.services.aigeneration.application.idempotency import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.ports import PublicationOutcome
from tests.support.app import ServiceUnderTest

_PAID = 10_000


@pytest.fixture
async def own_app(make_test_app: Any) -> ServiceUnderTest:
    """A process that publishes its own jobs and has its credits in the same database."""
    made: ServiceUnderTest = make_test_app(ledger_here=True)
    made.start_own()
    await made.grant("user", _PAID, plan="payg")
    return made


async def in_flight(test_app: ServiceUnderTest, lane: Stage = Stage.SAMPLES) -> int:
    lanes = await test_app.service.queries.lanes()
    return sum(row["in_flight"] for row in lanes if row["lane"] == lane)


async def versions(test_app: ServiceUnderTest, request: Any) -> list[tuple[str, int]]:
    rows = await test_app.database.fetch(
        "SELECT event, version FROM generation_events WHERE request_id = $1 AND state IS NOT NULL"
        " ORDER BY seq",
        request.id,
    )
    return [(row["event"], row["version"]) for row in rows]


async def test_create_in_a_free_lane_is_published_without_a_dispatcher(
    own_app: ServiceUnderTest,
) -> None:
    request = await own_app.submitted()
    assert (request.state, request.version) == (State.PENDING, 1)
    await own_app.service.dispatcher.finish_own()
    assert [job.id for job in own_app.engine.published] == [request.id]
    assert (await own_app.look(request)).state is State.PUBLISHING_TO_QUEUE
    await own_app.settle_own()
    assert await versions(own_app, request) == [
        ("submitted", 1),
        ("job_leased", 2),
        ("samples_job_confirmed", 3),
    ]
    assert await own_app.balance() == _PAID - 25


async def test_lifecycle_is_led_to_its_end_without_a_step(own_app: ServiceUnderTest) -> None:
    request = await own_app.submitted()
    await own_app.service.dispatcher.finish_own()
    job = own_app.engine.jobs.popleft()
    await own_app.jobs.work_started(job.id, job.job_id)
    shown = await own_app.deliver(job)
    await own_app.select(shown)
    await own_app.service.dispatcher.finish_own()
    job = own_app.engine.jobs.popleft()
    assert job.stage is Stage.FINAL
    done = await own_app.deliver(job)
    await own_app.service.relays.finish()
    assert (done.state, await own_app.balance()) == (State.COMPLETED, _PAID - 125)
    assert own_app.notifier.types() == ["samples_ready", "final_asset_ready"]
    assert await own_app.database.fetchval("SELECT count(*) FROM outbox") == 0
    assert await versions(own_app, request) == [
        ("submitted", 1),
        ("job_leased", 2),
        ("samples_job_confirmed", 3),
        ("samples_started", 4),
        ("samples_delivered", 5),
        ("sample_selected", 6),
        ("job_leased", 7),
        ("final_job_confirmed", 8),
        ("final_delivered", 9),
    ]
    await own_app.check()


async def test_confirm_written_with_a_report_keeps_its_own_time(own_app: ServiceUnderTest) -> None:
    request = await own_app.submitted()
    await own_app.service.dispatcher.finish_own()
    own_app.clock.advance(seconds=0.4)
    job = own_app.engine.jobs.popleft()
    await own_app.jobs.work_started(job.id, job.job_id)
    at = {entry["event"]: entry["at"] for entry in await own_app.timeline(request)}
    assert (at["samples_started"] - at["samples_job_confirmed"]).total_seconds() > 0.3


@pytest.mark.parametrize("window", [7, 40])
async def test_window_is_exact_when_several_processes_queue_at_once(
    make_test_app: Any, window: int
) -> None:
    test_apps = [make_test_app(lane_window=window) for _ in range(4)]
    for test_app in test_apps:
        test_app.start_own()
    await test_apps[0].grant("user", 0, "pro")
    done, most = 0, 0
    creates = [asyncio.create_task(test_apps[n % 4].submit("user")) for n in range(100)]
    while done < 100:
        most = max(most, await in_flight(test_apps[0]))
        await asyncio.gather(*(test_app.service.dispatcher.step() for test_app in test_apps))
        most = max(most, await in_flight(test_apps[0]))
        for test_app in test_apps:
            while test_app.engine.jobs:
                await test_app.deliver(test_app.engine.jobs.popleft())
                done += 1
    await asyncio.gather(*creates)
    published = [job.job_id for test_app in test_apps for job in test_app.engine.published]
    assert len(published) == len(set(published)) == 100
    assert 0 < most <= window
    for test_app in test_apps:
        await test_app.settle_own()
    await test_apps[0].check(drained=False)


async def test_user_over_the_limit_of_the_plan_waits_for_a_dispatcher(make_test_app: Any) -> None:
    test_app = make_test_app(in_flight_limits={"pro": 3})
    test_app.start_own()
    await test_app.grant("user", 0, "pro")
    await asyncio.gather(*(test_app.submit("user") for _ in range(10)))
    await test_app.settle_own()
    assert len(test_app.engine.published) == await in_flight(test_app) == 3
    await test_app.dispatch()
    assert len(test_app.engine.published) == 3
    await test_app.check(drained=False)


async def test_newcomer_never_overtakes_those_who_wait(make_test_app: Any) -> None:
    window = 10
    test_app = make_test_app(lane_window=window)
    test_app.start_own()
    await test_app.grant("greedy", 0, "pro")
    await test_app.grant("modest", 0, "pro")
    await asyncio.gather(*(test_app.submit("greedy") for _ in range(200)))
    await test_app.settle_own()
    assert len(test_app.engine.published) == window
    await test_app.deliver(test_app.engine.jobs.popleft())
    await test_app.submit("modest")
    await test_app.settle_own()
    assert all(job.user_id == "greedy" for job in test_app.engine.published)
    while not any(job.user_id == "modest" for job in test_app.engine.published):
        await test_app.dispatch()
        await test_app.deliver(test_app.engine.jobs.popleft())
    before = [job.user_id for job in test_app.engine.published].index("modest")
    assert before <= 2 * window
    await test_app.settle_own()
    await test_app.check(drained=False)


async def test_process_that_dies_before_publishing_leaves_the_job_to_a_dispatcher(
    make_test_app: Any,
) -> None:
    dying, other = make_test_app(), make_test_app()
    dying.start_own()
    dying.service.runner.on_leased = None
    await dying.grant("user", 0, "pro")
    request = await dying.submitted()
    assert (await other.look(request)).state is State.PUBLISHING_TO_QUEUE
    await other.dispatch()
    assert not other.engine.published
    other.clock.advance(minutes=2)
    await other.sweep()
    job = await other.next_job()
    assert (job.id, job.job_id) == (request.id, request.job_id)
    await other.deliver(job)
    await other.check()


async def test_confirm_lost_with_its_process_publishes_the_same_job_again(
    make_test_app: Any,
) -> None:
    dying, other = make_test_app(), make_test_app()
    dying.start_own()
    await dying.grant("user", 0, "pro")
    request = await dying.submitted()
    await dying.service.dispatcher.finish_own()
    assert dying.service.runner.confirms.take(request.id) is not None
    other.clock.advance(minutes=2)
    await other.sweep()
    again = await other.next_job()
    assert again.job_id == dying.engine.jobs[0].job_id
    assert (await other.deliver(dying.engine.jobs[0])).state is State.AWAITING_SELECTION
    await other.deliver(again)
    await other.check()


async def test_report_to_another_process_overtakes_a_confirm_that_waits(make_test_app: Any) -> None:
    publisher, other = make_test_app(), make_test_app()
    publisher.start_own()
    await publisher.grant("user", 0, "pro")
    request = await publisher.submitted()
    await publisher.service.dispatcher.finish_own()
    job = publisher.engine.jobs.popleft()
    await other.jobs.work_started(job.id, job.job_id)
    await publisher.settle_own()
    assert await versions(other, request) == [
        ("submitted", 1),
        ("job_leased", 2),
        ("samples_started", 3),
    ]
    assert (await publisher.deliver(job)).state is State.AWAITING_SELECTION
    await publisher.settle_own()
    await other.check()


async def test_cancel_while_a_confirm_waits_is_written_with_it(own_app: ServiceUnderTest) -> None:
    request = await own_app.submitted()
    await own_app.service.dispatcher.finish_own()
    await own_app.cancel(request)
    assert [event for event, _ in await versions(own_app, request)][-2:] == [
        "samples_job_confirmed",
        "cancel_requested",
    ]
    assert (await own_app.look(request)).state is State.CANCELLED
    await own_app.check()
    assert await own_app.balance() == _PAID


async def test_stale_report_while_a_confirm_waits_writes_the_confirm(
    own_app: ServiceUnderTest,
) -> None:
    request = await own_app.submitted()
    await own_app.service.dispatcher.finish_own()
    with pytest.raises(errors.StaleResultError):
        await own_app.jobs.work_started(request.id, own_app.service.new_id())
    assert (await own_app.look(request)).state is State.PROCESSING_SAMPLES
    await own_app.check()


@pytest.mark.parametrize("outcome", [PublicationOutcome.REFUSED, PublicationOutcome.UNKNOWN])
async def test_job_the_broker_did_not_confirm_goes_back_to_its_place(
    own_app: ServiceUnderTest, outcome: PublicationOutcome
) -> None:
    own_app.engine.next_outcomes.append(outcome)
    request = await own_app.submitted()
    await own_app.settle_own()
    assert (await own_app.look(request)).state is State.PENDING
    own_app.clock.advance(seconds=3)
    await own_app.dispatch()
    assert len({job.job_id for job in own_app.engine.published}) == 1
    assert len(own_app.engine.published) == 2
    await own_app.settle_own()
    await own_app.deliver(own_app.engine.published[-1])
    await own_app.check()


async def test_queued_job_without_broker_is_not_leased(own_app: ServiceUnderTest) -> None:
    own_app.engine.ready = False
    request = await own_app.submitted()
    await own_app.settle_own()
    waiting = await own_app.look(request)
    assert (waiting.state, waiting.version) == (State.PENDING, 1)


async def test_repeated_keys_lease_and_charge_once(own_app: ServiceUnderTest) -> None:
    key = IdempotencyClaim(principal="test", key="once", fingerprint="body")
    found = await asyncio.gather(*(own_app.submit("user", claim=key) for _ in range(20)))
    assert {reply.answer.status for reply in found} == {202}
    await own_app.settle_own()
    assert len(own_app.engine.published) == 1
    assert await own_app.balance() == _PAID - 25
    await own_app.deliver(own_app.engine.jobs.popleft())
    await own_app.check()


async def test_without_credits_nothing_is_leased(own_app: ServiceUnderTest) -> None:
    await own_app.grant("poor", 25, plan="payg")
    found = await asyncio.gather(
        *(own_app.submit("poor") for _ in range(5)), return_exceptions=True
    )
    await own_app.settle_own()
    taken = [reply for reply in found if not isinstance(reply, BaseException)]
    assert len(taken) == len(own_app.engine.published) == 1
    assert {type(e) for e in found if isinstance(e, BaseException)} == {
        errors.InsufficientCreditsError
    }
    assert await own_app.balance("poor") == 0
    await own_app.deliver(own_app.engine.jobs.popleft())
    await own_app.check()


async def test_selections_of_one_sample_in_two_processes_publish_one_final(
    make_test_app: Any,
) -> None:
    test_apps = [make_test_app(ledger_here=True) for _ in range(2)]
    await test_apps[0].grant("user", _PAID, plan="payg")
    shown = await test_apps[0].with_samples("user")
    for test_app in test_apps:
        test_app.start_own()
    await asyncio.gather(
        *(test_apps[n % 2].select(shown, caller=Caller(name="test")) for n in range(20))
    )
    for test_app in test_apps:
        await test_app.settle_own()
    finals = [j for app in test_apps for j in app.engine.published if j.stage is Stage.FINAL]
    assert len(finals) == 1
    assert await test_apps[0].balance() == _PAID - 125
    await test_apps[0].deliver(finals[0])
    await test_apps[0].check()


async def test_regeneration_on_the_free_plan_is_left_to_a_dispatcher(make_test_app: Any) -> None:
    test_app = make_test_app()
    test_app.start_own()
    request = await test_app.submitted("free")
    await test_app.service.dispatcher.finish_own()
    shown = await test_app.deliver(test_app.engine.jobs.popleft())
    await test_app.regenerate(shown)
    await test_app.settle_own()
    assert (await test_app.look(request)).state is State.PENDING
    assert len(test_app.engine.published) == 1
    await test_app.deliver(await test_app.next_job())
    await test_app.settle_own()
    await test_app.check()
