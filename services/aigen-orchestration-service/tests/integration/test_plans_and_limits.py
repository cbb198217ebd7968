"""Plans, subscription statuses, quotes and limits, and changes of them while a request is in
progress.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import PLANS, Prices, SubscriptionStatus
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from tests.support.app import ServiceUnderTest, four_samples


def at_prices(test_app: ServiceUnderTest, **prices: int) -> None:
    """Change the price list of a running service."""
    test_app.generations._policy = Policy(prices=Prices(**prices))  # noqa: SLF001 - as after a restart with other settings


# Subscription statuses


@pytest.mark.parametrize("status", [SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIAL])
async def test_subscription_active_gives_its_plan(
    test_app: ServiceUnderTest, status: SubscriptionStatus
) -> None:
    await test_app.grant("user", 0, "pro", status)
    assert (await test_app.submitted(brand_kit_id="kit")).terms is PLANS["pro"]


@pytest.mark.parametrize("status", [SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED])
async def test_subscription_ended_gives_the_free_plan(
    test_app: ServiceUnderTest, status: SubscriptionStatus
) -> None:
    await test_app.grant("user", 500, "pro", status)
    request = await test_app.submitted()
    assert request.terms is PLANS["free"]
    assert request.terms.watermark
    with pytest.raises(errors.PlanRequiredError):
        await test_app.submit(brand_kit_id="kit")


async def test_subscription_suspended_is_restricted_until_active(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 500, "pro", SubscriptionStatus.SUSPENDED)
    with pytest.raises(errors.AccountRestrictedError):
        await test_app.submit()
    await test_app.grant("user", 0, status=SubscriptionStatus.ACTIVE)
    assert (await test_app.submitted()).state is State.PENDING


# The plan changes between samples and final


async def test_plan_upgraded_after_samples_makes_the_final_free(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.with_samples()
    await test_app.grant("user", 0, "pro")
    await test_app.select(request)
    done = await test_app.deliver(await test_app.next_job())
    assert (done.state, done.plan) == (State.COMPLETED, "pro")
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_plan_downgraded_after_samples_charges_by_the_new_plan(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 100, "pro")
    request = await test_app.with_samples()
    await test_app.grant("user", 0, "payg")
    await test_app.select(request)
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_plan_downgraded_refuses_high_resolution_only(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "pro")
    request = await test_app.with_samples()
    await test_app.grant("user", 0, status=SubscriptionStatus.EXPIRED)
    with pytest.raises(errors.PlanRequiredError):
        await test_app.select(request, resolution="4K")
    chosen = (await test_app.select(request)).request
    assert chosen is not None
    assert chosen.terms.watermark
    await test_app.deliver(await test_app.next_job())
    assert await test_app.balance() == 500


async def test_plan_downgraded_during_the_final_changes_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 200, "pro")
    request = await test_app.with_samples()
    await test_app.select(request, resolution="4K")
    job = await test_app.next_job()
    await test_app.grant("user", 0, status=SubscriptionStatus.EXPIRED)
    done = await test_app.deliver(job)
    await test_app.drain()
    assert (done.state, done.plan, await test_app.balance()) == (State.COMPLETED, "pro", 0)


# Exact balances


@pytest.mark.parametrize(("balance", "passes"), [(125, True), (124, False)])
async def test_hold_balance_boundaries_are_exact(
    test_app: ServiceUnderTest, balance: int, passes: bool
) -> None:
    await test_app.grant("user", balance, "payg")
    request = await test_app.with_samples()
    if passes:
        await test_app.select(request)
        await test_app.deliver(await test_app.next_job())
        await test_app.drain()
        assert await test_app.balance() == 0
    else:
        with pytest.raises(errors.InsufficientCreditsError):
            await test_app.select(request)
        assert (await test_app.look(request)).state is State.AWAITING_SELECTION
        assert await test_app.balance() == 99
        await test_app.cancel(request)


# Quotes


async def test_quote_is_the_charge(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    quoted = await test_app.quoted()
    prices = {(item["stage"], item["resolution"]): item["credits"] for item in quoted["items"]}
    assert prices == {
        ("samples", None): "0.25",
        ("final", "1080x1080"): "1.00",
        ("final", "4096x4096"): "2.00",
    }
    reply = await test_app.submit(quote_id=quoted["quote_id"])
    assert reply.request is not None
    request = await test_app.deliver(await test_app.next_job())
    chosen = (await test_app.select(request, resolution="4K", quote_id=quoted["quote_id"])).request
    assert chosen is not None
    assert [hold.amount for hold in chosen.holds] == [25, 200]
    await test_app.cancel(chosen)


async def test_quote_with_changed_price_is_never_charged(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    quoted = await test_app.quoted()
    for price in (26, 24, 0):
        at_prices(test_app, sample_set=price)
        with pytest.raises(errors.QuoteExpiredError):
            await test_app.submit(quote_id=quoted["quote_id"])
    assert await test_app.balance() == 500
    at_prices(test_app)
    assert (await test_app.submit(quote_id=quoted["quote_id"])).request is not None


async def test_quote_with_price_changed_before_the_final_is_a_conflict(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 500, "payg")
    quoted = await test_app.quoted()
    await test_app.submit(quote_id=quoted["quote_id"])
    request = await test_app.deliver(await test_app.next_job())
    at_prices(test_app, final=150, sample_set=30)
    with pytest.raises(errors.QuoteExpiredError):
        await test_app.select(request, quote_id=quoted["quote_id"])
    with pytest.raises(errors.QuoteExpiredError):
        await test_app.regenerate(request, quoted["quote_id"])
    assert (await test_app.look(request)).version == request.version
    chosen = (
        await test_app.select(request, quote_id=(await test_app.quoted())["quote_id"])
    ).request
    assert chosen is not None
    assert chosen.holds[-1].amount == 150
    await test_app.cancel(chosen)


async def test_price_changed_during_the_work_changes_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 125, "payg")
    await test_app.submitted()
    job = await test_app.next_job()
    at_prices(test_app, sample_set=9, final=100)
    request = await test_app.deliver(job)
    await test_app.select(request)
    job = await test_app.next_job()
    at_prices(test_app, sample_set=1, final=1)
    await test_app.deliver(job)
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_quote_after_a_downgrade_is_a_conflict(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "pro")
    quoted = await test_app.quoted()
    await test_app.grant("user", 0, "payg")
    with pytest.raises(errors.QuoteExpiredError):
        await test_app.submit(quote_id=quoted["quote_id"])


async def test_quote_expired_or_of_another_user_is_refused(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    await test_app.grant("other", 500, "payg")
    quoted = await test_app.quoted()
    with pytest.raises(errors.InvalidRequestError):
        await test_app.submit("other", quote_id=quoted["quote_id"])
    test_app.clock.advance(minutes=15)
    with pytest.raises(errors.QuoteExpiredError):
        await test_app.submit(quote_id=quoted["quote_id"])


async def test_quote_expired_does_not_prevent_a_replay(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    claim, quote_id = (
        IdempotencyClaim(principal="p", key="k", fingerprint="f"),
        (await test_app.quoted())["quote_id"],
    )
    first = await test_app.submit(claim=claim, quote_id=quote_id)
    test_app.clock.advance(minutes=16)
    again = await test_app.submit(claim=claim, quote_id=quote_id)
    assert again.stored is not None
    assert first.request is not None
    assert again.stored.request_id == first.request.id


# Unavailable credit service


async def test_entitlements_stale_allow_free_work_for_five_minutes(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted("free")
    test_app.clock.advance(minutes=4)
    test_app.credits.faults.append("entitlements")
    request = await test_app.submitted("free")
    charge = (await test_app.timeline(request))[0]["data"]["charge"]
    assert charge == {
        "action": "sample_generation",
        "paid_by": "allowance",
        "credits": "0.00",
        "entitlements": "stale",
    }
    test_app.clock.advance(minutes=2)
    test_app.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError):
        await test_app.submit("free")


async def test_entitlements_stale_refuse_paid_work(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    await test_app.submitted()
    test_app.clock.advance(seconds=31)
    test_app.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError) as refused:
        await test_app.submit()
    assert refused.value.retry_after_seconds == 5
    assert (await test_app.submitted()).state is State.PENDING


async def test_entitlements_are_cached_for_thirty_seconds(test_app: ServiceUnderTest) -> None:
    await test_app.submitted("free")
    test_app.credits.faults.append("entitlements")
    test_app.clock.advance(seconds=29)
    request = await test_app.submitted("free")
    assert "entitlements" not in (await test_app.timeline(request))[0]["data"]["charge"]
    assert list(test_app.credits.faults) == ["entitlements"]


# In-flight limits


async def test_in_flight_limit_applies_per_user_without_delaying_others(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(in_flight_limits={"free": 3, "pro": 5})
    await test_app.grant("pro", 0, "pro")
    for user_id in ("free", "pro"):
        for _ in range(8):
            await test_app.submit(user_id)
    await test_app.submit("late")
    await test_app.dispatch()
    assert (
        sorted(job.user_id for job in test_app.engine.jobs) == ["free"] * 3 + ["late"] + ["pro"] * 5
    )
    assert test_app.service.dispatcher.window_full

    first = next(job for job in test_app.engine.jobs if job.user_id == "free")
    test_app.engine.jobs.remove(first)
    await test_app.deliver(first)
    await test_app.dispatch()
    assert sum(job.user_id == "free" for job in test_app.engine.jobs) == 3


async def test_in_flight_limit_holds_with_several_dispatchers(make_test_app) -> None:
    test_apps = [make_test_app(in_flight_limits={"free": 4}) for _ in range(3)]
    for _ in range(20):
        await test_apps[0].submit("free")
    await asyncio.gather(*(test_app.dispatch() for test_app in test_apps))
    assert sum(len(test_app.engine.jobs) for test_app in test_apps) == 4
    await test_apps[0].check(drained=False)


async def test_in_flight_limit_of_many_users_does_not_hide_others(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(in_flight_limits={"free": 1})
    for user in range(30):
        for _ in range(3):
            await test_app.submit(f"user-{user}")
    for user in range(5):
        await test_app.submit(f"late-{user}")
    leased = await test_app.service.jobs.lease(Stage.SAMPLES, window=500, most=50)
    assert len({job.user_id for job in leased.jobs}) == len(leased.jobs) == 35


# Concurrent selections in several processes


async def test_select_fifty_concurrent_calls_in_two_processes_charge_once(make_test_app) -> None:
    test_apps = [make_test_app(), make_test_app()]
    await test_apps[0].grant("user", 500, "payg")
    request = await test_apps[0].with_samples()
    quoted = await test_apps[0].quoted()
    told = await asyncio.gather(
        *(
            test_apps[n % 2].select(
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
    chosen = await test_apps[0].look(request)
    assert [(hold.stage, hold.amount, hold.state) for hold in chosen.holds] == [
        (Stage.SAMPLES, 25, HoldState.CAPTURED),
        (Stage.FINAL, 100, HoldState.HELD),
    ]
    await test_apps[0].deliver(await test_apps[0].next_job())
    await test_apps[0].check()
    assert await test_apps[0].balance() == 375


async def test_quote_has_its_expiry(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(quote_validity=60.0)
    before = test_app.clock()
    quoted = await test_app.quoted("free")
    assert quoted["expires_at"] == (before + timedelta(seconds=60)).replace(
        microsecond=0
    ).isoformat().replace("+00:00", "Z")


async def test_in_flight_limit_backlogs_leave_no_window_slot_unused(make_test_app) -> None:
    """The head of the lane has four batches of jobs at their limit; jobs behind them must still be
    found.
    """
    test_app = make_test_app(in_flight_limits={"pro": 2, "enterprise": 50}, lane_window=20)
    test_app.service.dispatcher._batch = 5  # noqa: SLF001 - a head of twenty jobs
    await test_app.grant("capped", plan="pro")
    await test_app.grant("busy", plan="enterprise")
    await test_app.grant("newcomer", plan="pro")
    await asyncio.gather(*(test_app.submit("capped") for _ in range(60)))
    await test_app.dispatch()
    assert Counter(job.user_id for job in test_app.engine.published) == {"capped": 2}
    virtual_time = await test_app.database.fetchval("SELECT max(fair_at) FROM generation_requests")
    await test_app.database.execute("UPDATE lanes SET virtual_time = $1", virtual_time)
    await asyncio.gather(*(test_app.submit("busy") for _ in range(40)))
    await test_app.submit("newcomer")
    await test_app.dispatch()
    published = Counter(job.user_id for job in test_app.engine.published)
    assert published["capped"] == 2
    assert published["newcomer"] == 1
    assert sum(published.values()) == 20
    order = [job.fair_at for job in test_app.engine.published if job.user_id == "busy"]
    assert order == sorted(order)
    await test_app.check(drained=False)


async def test_fair_queue_concurrent_creates_get_distinct_virtual_times(make_test_app) -> None:
    test_app = make_test_app()
    await test_app.grant("user", plan="pro")
    await asyncio.gather(*(test_app.submit("user") for _ in range(200)))
    times = [
        row["fair_at"]
        for row in await test_app.database.fetch("SELECT fair_at FROM generation_requests")
    ]
    assert len(set(times)) == 200


@pytest.mark.parametrize(("plan", "shown"), [("payg", 0), ("pro", 1)])
async def test_samples_of_an_unpaid_set_are_not_shown_before_it_is_delivered(
    test_app: ServiceUnderTest, plan: str, shown: int
) -> None:
    await test_app.grant("user", 100, plan)
    request = await test_app.submitted()
    job = await test_app.next_job()
    sample = four_samples(job)[0]
    await test_app.jobs.progress_reported(job.id, job.job_id, {"percent": 25}, [sample])
    assert len(to_resource(await test_app.look(request))["samples"]) == shown
    await test_app.cancel(request)
    assert len(to_resource(await test_app.look(request))["samples"]) == shown
    await test_app.drain()
    assert await test_app.balance() == 100


@pytest.mark.parametrize(("before", "after"), [("payg", "free"), ("free", "payg"), ("payg", "pro")])
async def test_regeneration_refused_before_a_plan_change_is_possible_after_it(
    make_test_app: Callable[..., ServiceUnderTest], before: str, after: str
) -> None:
    test_app = make_test_app(free_generations=1)
    await test_app.grant("user", 25, before)
    request = await test_app.with_samples()
    await test_app.drain()
    await test_app.grant("user", -await test_app.balance())
    with pytest.raises((errors.InsufficientCreditsError, errors.FreeQuotaExhaustedError)):
        await test_app.regenerate(request)
    await test_app.grant("user", 25, after)
    if after == "free":
        await test_app.database.execute("DELETE FROM free_usage")
    await test_app.regenerate(await test_app.look(request))
    shown = await test_app.deliver(await test_app.next_job())
    assert (shown.state, shown.round) == (State.AWAITING_SELECTION, 2)
    await test_app.drain()
    assert await test_app.balance() == (0 if after == "payg" else 25)
    await test_app.check()
