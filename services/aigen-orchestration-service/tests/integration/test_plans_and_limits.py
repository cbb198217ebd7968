"""What a plan and its status allow, what a quote binds, and what happens when either changes in
mid-flight.
"""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import PLANS, Prices, SubscriptionStatus
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from tests.support.app import ServiceUnderTest


def at_prices(world: ServiceUnderTest, **prices: int) -> None:
    """An operator changes the price list while the service runs."""
    world.generations._policy = Policy(prices=Prices(**prices))  # noqa: SLF001 - as after a restart with other settings


# Statuses


@pytest.mark.parametrize("status", [SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIAL])
async def test_a_running_subscription_gives_its_plan(
    world: ServiceUnderTest, status: SubscriptionStatus
) -> None:
    await world.grant("user", 0, "pro", status)
    assert (await world.submitted(brand_kit_id="kit")).terms is PLANS["pro"]


@pytest.mark.parametrize("status", [SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED])
async def test_an_ended_subscription_gives_the_free_plan(
    world: ServiceUnderTest, status: SubscriptionStatus
) -> None:
    await world.grant("user", 500, "pro", status)
    request = await world.submitted()
    assert request.terms is PLANS["free"]
    assert request.terms.watermark
    with pytest.raises(errors.PlanRequiredError):
        await world.submit(brand_kit_id="kit")


async def test_a_suspended_subscription_gives_nothing_until_it_runs_again(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "pro", SubscriptionStatus.SUSPENDED)
    with pytest.raises(errors.AccountRestrictedError):
        await world.submit()
    await world.grant("user", 0, status=SubscriptionStatus.ACTIVE)
    assert (await world.submitted()).state is State.PENDING


# The plan changes between samples and final


async def test_after_an_upgrade_the_final_is_free_of_charge(world: ServiceUnderTest) -> None:
    await world.grant("user", 25, "payg")
    request = await world.with_samples()
    await world.grant("user", 0, "pro")
    await world.select(request)
    done = await world.deliver(await world.next_job())
    assert (done.state, done.plan) == (State.COMPLETED, "pro")
    await world.drain()
    assert await world.balance() == 0


async def test_after_a_downgrade_the_final_costs_what_the_new_plan_says(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 100, "pro")
    request = await world.with_samples()
    await world.grant("user", 0, "payg")
    await world.select(request)
    await world.deliver(await world.next_job())
    await world.drain()
    assert await world.balance() == 0


async def test_after_a_downgrade_high_resolution_is_refused_and_the_standard_final_is_not(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "pro")
    request = await world.with_samples()
    await world.grant("user", 0, status=SubscriptionStatus.EXPIRED)
    with pytest.raises(errors.PlanRequiredError):
        await world.select(request, resolution="4K")
    chosen = (await world.select(request)).request
    assert chosen is not None
    assert chosen.terms.watermark
    await world.deliver(await world.next_job())
    assert await world.balance() == 500


async def test_a_downgrade_while_the_final_is_made_changes_nothing(world: ServiceUnderTest) -> None:
    await world.grant("user", 200, "pro")
    request = await world.with_samples()
    await world.select(request, resolution="4K")
    job = await world.next_job()
    await world.grant("user", 0, status=SubscriptionStatus.EXPIRED)
    done = await world.deliver(job)
    await world.drain()
    assert (done.state, done.plan, await world.balance()) == (State.COMPLETED, "pro", 0)


# To the cent


@pytest.mark.parametrize(("balance", "passes"), [(125, True), (124, False)])
async def test_one_cent_short_is_too_little_and_zero_is_left_of_enough(
    world: ServiceUnderTest, balance: int, passes: bool
) -> None:
    await world.grant("user", balance, "payg")
    request = await world.with_samples()
    if passes:
        await world.select(request)
        await world.deliver(await world.next_job())
        await world.drain()
        assert await world.balance() == 0
    else:
        with pytest.raises(errors.InsufficientCreditsError):
            await world.select(request)
        assert (await world.look(request)).state is State.AWAITING_SELECTION
        assert await world.balance() == 99
        await world.cancel(request)


# Quotes bind


async def test_what_was_quoted_is_charged(world: ServiceUnderTest) -> None:
    await world.grant("user", 500, "payg")
    quoted = await world.quoted()
    prices = {(item["stage"], item["resolution"]): item["credits"] for item in quoted["items"]}
    assert prices == {
        ("samples", None): "0.25",
        ("final", "1080x1080"): "1.00",
        ("final", "4096x4096"): "2.00",
    }
    reply = await world.submit(quote_id=quoted["quote_id"])
    assert reply.request is not None
    request = await world.deliver(await world.next_job())
    chosen = (await world.select(request, resolution="4K", quote_id=quoted["quote_id"])).request
    assert chosen is not None
    assert [hold.amount for hold in chosen.holds] == [25, 200]
    await world.cancel(chosen)


async def test_a_price_that_rose_or_fell_since_the_quote_is_never_charged(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    quoted = await world.quoted()
    for price in (26, 24, 0):
        at_prices(world, sample_set=price)
        with pytest.raises(errors.QuoteExpiredError):
            await world.submit(quote_id=quoted["quote_id"])
    assert await world.balance() == 500
    at_prices(world)
    assert (await world.submit(quote_id=quoted["quote_id"])).request is not None


async def test_a_price_that_changes_between_samples_and_final_is_a_conflict_with_the_quote(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    quoted = await world.quoted()
    await world.submit(quote_id=quoted["quote_id"])
    request = await world.deliver(await world.next_job())
    at_prices(world, final=150, sample_set=30)
    with pytest.raises(errors.QuoteExpiredError):
        await world.select(request, quote_id=quoted["quote_id"])
    with pytest.raises(errors.QuoteExpiredError):
        await world.regenerate(request, quoted["quote_id"])
    assert (await world.look(request)).version == request.version
    chosen = (await world.select(request, quote_id=(await world.quoted())["quote_id"])).request
    assert chosen is not None
    assert chosen.holds[-1].amount == 150
    await world.cancel(chosen)


async def test_a_price_that_changes_while_the_work_is_done_changes_nothing(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 125, "payg")
    await world.submitted()
    job = await world.next_job()
    at_prices(world, sample_set=9, final=100)
    request = await world.deliver(job)
    await world.select(request)
    job = await world.next_job()
    at_prices(world, sample_set=1, final=1)
    await world.deliver(job)
    await world.drain()
    assert await world.balance() == 0


async def test_a_downgrade_since_the_quote_is_a_conflict_too(world: ServiceUnderTest) -> None:
    await world.grant("user", 500, "pro")
    quoted = await world.quoted()
    await world.grant("user", 0, "payg")
    with pytest.raises(errors.QuoteExpiredError):
        await world.submit(quote_id=quoted["quote_id"])


async def test_a_quote_is_too_old_after_its_time_and_nobody_elses(world: ServiceUnderTest) -> None:
    await world.grant("user", 500, "payg")
    await world.grant("other", 500, "payg")
    quoted = await world.quoted()
    with pytest.raises(errors.InvalidRequestError):
        await world.submit("other", quote_id=quoted["quote_id"])
    world.clock.advance(minutes=15)
    with pytest.raises(errors.QuoteExpiredError):
        await world.submit(quote_id=quoted["quote_id"])


async def test_an_answer_is_replayed_though_its_quote_is_too_old_by_now(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    claim, quote_id = (
        IdempotencyClaim(principal="p", key="k", fingerprint="f"),
        (await world.quoted())["quote_id"],
    )
    first = await world.submit(claim=claim, quote_id=quote_id)
    world.clock.advance(minutes=16)
    again = await world.submit(claim=claim, quote_id=quote_id)
    assert again.stored is not None
    assert first.request is not None
    assert again.stored.request_id == first.request.id


# The credit service is away


async def test_what_is_free_goes_on_for_five_minutes_and_says_so_in_the_timeline(
    world: ServiceUnderTest,
) -> None:
    await world.submitted("free")
    world.clock.advance(minutes=4)
    world.credits.faults.append("entitlements")
    request = await world.submitted("free")
    charge = (await world.timeline(request))[0]["data"]["charge"]
    assert charge == {
        "action": "sample_generation",
        "paid_by": "allowance",
        "credits": "0.00",
        "entitlements": "stale",
    }
    world.clock.advance(minutes=2)
    world.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError):
        await world.submit("free")


async def test_what_costs_waits_until_the_credit_service_is_back(world: ServiceUnderTest) -> None:
    await world.grant("user", 500, "payg")
    await world.submitted()
    world.clock.advance(seconds=31)
    world.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError) as refused:
        await world.submit()
    assert refused.value.retry_after_seconds == 5
    assert (await world.submitted()).state is State.PENDING


async def test_within_thirty_seconds_nobody_is_asked_again(world: ServiceUnderTest) -> None:
    await world.submitted("free")
    world.credits.faults.append("entitlements")
    world.clock.advance(seconds=29)
    request = await world.submitted("free")
    assert "entitlements" not in (await world.timeline(request))[0]["data"]["charge"]
    assert list(world.credits.faults) == ["entitlements"]


# How much of one user is with workers at once


async def test_a_plan_limits_what_one_user_has_in_a_lane_and_nobody_else_waits_for_it(
    make_world,
) -> None:
    world: ServiceUnderTest = make_world(in_flight_limits={"free": 3, "pro": 5})
    await world.grant("pro", 0, "pro")
    for user_id in ("free", "pro"):
        for _ in range(8):
            await world.submit(user_id)
    await world.submit("late")
    await world.dispatch()
    assert sorted(job.user_id for job in world.engine.jobs) == ["free"] * 3 + ["late"] + ["pro"] * 5
    assert world.service.dispatcher.window_full

    first = next(job for job in world.engine.jobs if job.user_id == "free")
    world.engine.jobs.remove(first)
    await world.deliver(first)
    await world.dispatch()
    assert sum(job.user_id == "free" for job in world.engine.jobs) == 3


async def test_any_number_of_dispatchers_keeps_the_limit(make_world) -> None:
    worlds = [make_world(in_flight_limits={"free": 4}) for _ in range(3)]
    for _ in range(20):
        await worlds[0].submit("free")
    await asyncio.gather(*(world.dispatch() for world in worlds))
    assert sum(len(world.engine.jobs) for world in worlds) == 4
    await worlds[0].check(drained=False)


async def test_a_crowd_of_users_at_their_limit_does_not_hide_the_others(make_world) -> None:
    world: ServiceUnderTest = make_world(in_flight_limits={"free": 1})
    for user in range(30):
        for _ in range(3):
            await world.submit(f"user-{user}")
    for user in range(5):
        await world.submit(f"late-{user}")
    leased = await world.service.jobs.lease(Stage.SAMPLES, window=500, most=50)
    assert len({job.user_id for job in leased.jobs}) == len(leased.jobs) == 35


# Two samples, many clicks, across processes


async def test_fifty_clicks_on_two_samples_in_two_processes_with_a_quote_charge_once(
    make_world,
) -> None:
    worlds = [make_world(), make_world()]
    await worlds[0].grant("user", 500, "payg")
    request = await worlds[0].with_samples()
    quoted = await worlds[0].quoted()
    told = await asyncio.gather(
        *(
            worlds[n % 2].select(
                request, n % 2, quote_id=quoted["quote_id"], caller=Caller(name=f"tab-{n}")
            )
            for n in range(50)
        ),
        return_exceptions=True,
    )
    wrong = [
        error
        for error in told
        if isinstance(error, Exception) and not isinstance(error, errors.AigenError)
    ]
    assert wrong == []
    chosen = await worlds[0].look(request)
    assert [(hold.stage, hold.amount, hold.state) for hold in chosen.holds] == [
        (Stage.SAMPLES, 25, HoldState.CAPTURED),
        (Stage.FINAL, 100, HoldState.HELD),
    ]
    await worlds[0].deliver(await worlds[0].next_job())
    await worlds[0].check()
    assert await worlds[0].balance() == 375


async def test_the_quote_says_how_long_it_binds(make_world) -> None:
    world: ServiceUnderTest = make_world(quote_validity=60.0)
    before = world.clock()
    quoted = await world.quoted("free")
    assert quoted["expires_at"] == (before + timedelta(seconds=60)).replace(
        microsecond=0
    ).isoformat().replace("+00:00", "Z")


async def test_backlogs_of_users_at_their_limit_leave_no_slot_of_the_window_free(
    make_world,
) -> None:
    """The head of the lane holds four batches of jobs; what waits behind it must be found all the
    same.
    """
    world = make_world(in_flight_limits={"pro": 2, "enterprise": 50}, lane_window=20)
    world.service.dispatcher._batch = 5  # noqa: SLF001 - a head of twenty jobs
    await world.grant("capped", plan="pro")
    await world.grant("busy", plan="enterprise")
    await world.grant("newcomer", plan="pro")
    await asyncio.gather(*(world.submit("capped") for _ in range(60)))
    await world.dispatch()
    assert Counter(job.user_id for job in world.engine.published) == {"capped": 2}
    virtual_time = await world.database.fetchval("SELECT max(fair_at) FROM generation_requests")
    await world.database.execute("UPDATE lanes SET virtual_time = $1", virtual_time)
    await asyncio.gather(*(world.submit("busy") for _ in range(40)))
    await world.submit("newcomer")
    await world.dispatch()
    published = Counter(job.user_id for job in world.engine.published)
    assert published["capped"] == 2
    assert published["newcomer"] == 1
    assert sum(published.values()) == 20
    order = [job.fair_at for job in world.engine.published if job.user_id == "busy"]
    assert order == sorted(order)
    await world.check(drained=False)


async def test_concurrent_creates_of_one_user_get_virtual_times_of_their_own(make_world) -> None:
    world = make_world()
    await world.grant("user", plan="pro")
    await asyncio.gather(*(world.submit("user") for _ in range(200)))
    times = [
        row["fair_at"]
        for row in await world.database.fetch("SELECT fair_at FROM generation_requests")
    ]
    assert len(set(times)) == 200
