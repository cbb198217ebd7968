"""Holds, captures and releases are exact under every failure of a credit service."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.commands import SampleChoice
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from tests.support.app import ServiceUnderTest


def states(request):
    return {hold.key.partition(":")[2]: hold.state for hold in request.holds}


async def test_samples_are_held_then_captured_on_delivery(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 100, "payg")
    request = await test_app.submitted()
    assert states(request) == {"samples:1:1": HoldState.HELD}
    assert await test_app.balance() == 75
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert states(await test_app.look(request)) == {"samples:1:1": HoldState.CAPTURED}
    assert await test_app.balance() == 75


async def test_release_several_holds_of_one_user_adds_up(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 100, "payg")
    ledger = test_app.service.ledger
    assert all(
        [
            await ledger.hold(f"hold-{n}", user_id="user", amount=25, action="final")
            for n in range(4)
        ]
    )
    assert await test_app.balance() == 0
    told = await asyncio.gather(
        *(ledger.resolve(f"hold-{n}", "release" if n else "capture") for n in range(4)),
        ledger.resolve("hold-never-placed", "release"),
    )
    assert told == ["capture", "release", "release", "release", None]
    assert await test_app.balance() == 75
    assert await ledger.resolve("hold-1", "capture") == "release"
    assert await test_app.balance() == 75


async def test_hold_concurrent_users_do_not_affect_each_other(test_app: ServiceUnderTest) -> None:
    for number in range(40):
        await test_app.grant(f"user-{number}", 25 if number % 2 else 24, "payg")
    ledger = test_app.service.ledger
    keys = [f"{which}-{number}" for which in ("one", "two") for number in range(40)]
    held = await asyncio.gather(
        *(ledger.hold(key, user_id=f"user-{key[4:]}", amount=25, action="final") for key in keys)
    )
    # Either of the user's two requests may win, but exactly one of them.
    taken = [key for key, fits in zip(keys, held, strict=True) if fits]
    assert sorted(int(key[4:]) for key in taken) == list(range(1, 40, 2))
    assert [await test_app.balance(f"user-{n}") for n in range(4)] == [24, 0, 24, 0]
    await asyncio.gather(*(ledger.resolve(key, "release") for key in taken))
    assert [await test_app.balance(f"user-{n}") for n in range(4)] == [24, 25, 24, 25]


async def test_lifecycle_costs_the_quoted_total(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 1000, "payg")
    quoted = await test_app.generations.quote(
        "user", {"input_prompt": "x", "output_format": "InstagramPost_1x1"}
    )
    assert quoted["total"] == "1.25"
    request = await test_app.with_samples()
    await test_app.select(request)
    done = await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert done.state is State.COMPLETED
    assert await test_app.balance() == 1000 - 125


async def test_plan_with_included_work_pays_only_for_high_resolution(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 200, "pro")
    request = await test_app.with_samples()
    assert request.holds == ()
    chosen = (await test_app.select(request, resolution="4K")).request
    assert chosen is not None
    assert states(chosen) == {"final:1:1": HoldState.HELD}
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_submit_without_credits_starts_and_holds_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 24, "payg")
    with pytest.raises(errors.InsufficientCreditsError, match=r"0\.25"):
        await test_app.submit()
    assert await test_app.balance() == 24
    await test_app.dispatch()
    assert not test_app.engine.published
    await test_app.drain()
    assert test_app.notifier.types() == ["generation_failed"]


async def test_submit_with_the_exact_balance_succeeds(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    assert (await test_app.submitted()).state is State.PENDING
    assert await test_app.balance() == 0


async def test_select_without_credits_keeps_the_samples_until_a_top_up(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 199, "pro")
    request = await test_app.with_samples()
    with pytest.raises(errors.InsufficientCreditsError):
        await test_app.select(request, 0, resolution="4K")
    refused = await test_app.look(request)
    assert (refused.state, refused.selected_sample_id) == (State.AWAITING_SELECTION, None)
    await test_app.grant("user", 1)
    chosen = await test_app.select(request, 2, resolution="4K")
    assert chosen.answer.body["cost"]["final"] == "2.00"
    await test_app.deliver(await test_app.next_job())
    assert (await test_app.look(request)).state is State.COMPLETED


@pytest.mark.parametrize(
    "code", ["provider_error", "unsafe_output", "workflow_error", "something_new"]
)
async def test_failure_of_the_service_costs_nothing(test_app: ServiceUnderTest, code: str) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    for _ in range(3):
        await test_app.fail(await test_app.next_job(), code)
        test_app.clock.advance(minutes=1)
    failed = await test_app.look(request)
    assert failed.state is State.FAILED
    await test_app.drain()
    assert await test_app.balance() == 25


@pytest.mark.parametrize(("charge", "left"), [(True, 0), (False, 25)])
async def test_prompt_rejected_by_the_provider_charges_by_setting(
    make_test_app, charge: bool, left: int
) -> None:
    test_app = make_test_app(charge_rejected=charge)
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    await test_app.fail(await test_app.next_job(), "prompt_rejected")
    assert (await test_app.look(request)).state is State.CONTENT_REJECTED
    await test_app.drain()
    assert await test_app.balance() == left
    await test_app.check()


async def test_cancel_at_any_point_releases_undelivered_work(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 1000, "payg")
    waiting = await test_app.submitted()
    assert (await test_app.cancel(waiting)).answer.body["outcome"] == "cancelled"
    working = await test_app.submitted()
    await test_app.next_job()
    assert (await test_app.cancel(working)).answer.body["outcome"] == "cancellation_requested"
    shown = await test_app.with_samples()
    await test_app.select(shown)
    await test_app.next_job()
    await test_app.cancel(shown)
    assert (await test_app.cancel(shown)).answer.body["outcome"] == "already_terminal"
    await test_app.drain()
    assert await test_app.balance() == 1000 - 25


async def test_hold_timeout_is_settled_as_held_by_the_sweeper(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.faults.append("after")
    reply = await test_app.submit(claim=IdempotencyClaim(principal="p", key="k", fingerprint="f"))
    assert reply.answer.body["status"] == "VALIDATING_CREDITS"
    assert reply.answer.status == 202
    test_app.clock.advance(minutes=1)
    await test_app.sweep()
    assert reply.request is not None
    settled = await test_app.look(reply.request)
    assert settled.state is State.PENDING
    assert await test_app.balance() == 0
    again = await test_app.submit(claim=IdempotencyClaim(principal="p", key="k", fingerprint="f"))
    assert again.stored is not None
    assert '"VALIDATING_CREDITS"' in (again.stored.body or "")


async def test_hold_not_received_is_placed_by_the_sweeper(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.faults.append("before")
    request = await test_app.submitted()
    assert await test_app.balance() == 25
    test_app.clock.advance(minutes=1)
    test_app.credits.faults.append("before")
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.VALIDATING_CREDITS
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.PENDING
    assert await test_app.balance() == 0


async def test_cancel_with_unknown_hold_releases_the_credits(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.faults.append("after")
    request = await test_app.submitted()
    await test_app.cancel(request)
    assert await test_app.balance() == 0
    test_app.clock.advance(minutes=1)
    await test_app.sweep()
    await test_app.drain()
    assert await test_app.balance() == 25
    assert "credits_released_late" in await test_app.events(request)


async def test_cancel_overtaking_the_hold_releases_it(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.gate = asyncio.Event()
    submitting = asyncio.create_task(test_app.submit())
    while not (found := await test_app.service.queries.page(_everything(), 1)):
        await asyncio.sleep(0)
    await test_app.cancel(found[0])
    test_app.credits.gate.set()
    reply = await submitting
    assert reply.request is not None
    assert reply.request.state is State.CANCELLED
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_hold_key_conflict_is_parked(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.faults.extend(["conflict", "conflict"])
    request = await test_app.submitted()
    test_app.clock.advance(minutes=1)
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.VALIDATING_CREDITS
    assert await test_app.parked_holds() == [f"{request.id}:samples:1:1"]
    test_app.service.entitlements.forget("user")
    with pytest.raises(errors.AccountRestrictedError):
        await test_app.submit()
    test_app.clock.advance(hours=1)
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.FAILED

    await test_app.generations.decide_hold(
        f"{request.id}:samples:1:1", charged=False, by="operator"
    )
    await test_app.service.account_flags.clear(
        "user", by="operator", note="looked at", now=test_app.clock()
    )
    await test_app.drain()
    assert await test_app.balance() == 25
    assert "credits_problem" in test_app.notifier.types()


async def test_captures_and_releases_are_retried_until_they_succeed(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 50, "payg")
    kept, given_back = await test_app.submitted(), await test_app.submitted()
    await test_app.deliver(await test_app.next_job())
    await test_app.cancel(given_back)
    test_app.credits.faults.extend(["before", "after", "after", "before"])
    await test_app.drain()
    assert await test_app.balance() == 25
    assert {hold.state for hold in (await test_app.look(kept)).holds} == {HoldState.CAPTURED}


async def test_result_after_the_end_is_not_applied_or_paid(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    last = None
    for _ in range(3):
        last = await test_app.next_job()
        await test_app.fail(last)
        test_app.clock.advance(minutes=1)
    assert last is not None
    await test_app.fail(last)
    with pytest.raises(errors.StaleResultError):
        await test_app.deliver(last)
    assert (await test_app.look(request)).state is State.FAILED
    assert "stale_result" in await test_app.events(request)
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_regenerate_charges_a_sample_set_and_replaces_the_samples(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 50, "payg")
    request = await test_app.with_samples()
    old = request.samples[0]["asset_id"]
    await test_app.regenerate(request)
    renewed = await test_app.deliver(await test_app.next_job())
    assert (renewed.round, renewed.state) == (2, State.AWAITING_SELECTION)
    with pytest.raises(errors.InvalidRequestError) as refused:
        await test_app.generations.select_sample(
            request.id, SampleChoice(sample_id=old), Caller(name="test")
        )
    assert refused.value.errors[0]["code"] == "unknown_sample"
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_regenerate_beyond_max_rounds_is_refused(make_test_app) -> None:
    test_app = make_test_app(max_rounds=2)
    await test_app.grant("user", 0, "pro")
    request = await test_app.with_samples()
    await test_app.regenerate(request)
    await test_app.deliver(await test_app.next_job())
    with pytest.raises(errors.TooManyRoundsError, match="2 rounds"):
        await test_app.regenerate(request)
    await test_app.check()


async def test_select_fifty_concurrent_calls_select_one_and_charge_once(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 1000, "pro")
    request = await test_app.with_samples()
    clicks = [test_app.select(request, click % 2, resolution="4K") for click in range(50)]
    told = await asyncio.gather(*clicks, return_exceptions=True)
    chosen = (await test_app.look(request)).selected_sample_id
    won = [reply for reply in told if not isinstance(reply, Exception)]
    assert {reply.answer.body["selected_sample_id"] for reply in won} == {chosen}
    assert {type(error) for error in told if isinstance(error, Exception)} <= {
        errors.AlreadySelectedError,
        errors.ActionInProgressError,
    }
    assert await test_app.balance() == 800
    await test_app.deliver(await test_app.next_job())
    assert not test_app.engine.jobs


async def test_regenerate_and_cancel_concurrent_apply_one(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 1000, "payg")
    for _ in range(10):
        request = await test_app.with_samples()
        await asyncio.gather(
            test_app.regenerate(request), test_app.cancel(request), return_exceptions=True
        )
        await test_app.dispatch()
        if test_app.engine.jobs:
            job = test_app.engine.jobs.popleft()
            if not (await test_app.look(request)).terminal:
                await test_app.deliver(job)
                await test_app.cancel(request)
    await test_app.check()


async def test_submit_thousand_identical_calls_create_one_request(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 10_000, "payg")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")

    async def create():
        while True:
            try:
                return await test_app.submit(claim=claim)
            except errors.IdempotencyKeyInFlightError:
                await asyncio.sleep(0.01)

    replies = await asyncio.gather(*(create() for _ in range(1000)))
    first = [reply for reply in replies if reply.stored is None]
    bodies = {reply.stored.body for reply in replies if reply.stored is not None}
    assert len(first) == 1
    assert len(bodies) == 1
    assert await test_app.balance() == 10_000 - 25
    await test_app.dispatch()
    assert len(test_app.engine.published) == 1


async def test_submit_key_with_another_body_is_refused(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 0, "pro")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")
    await test_app.submit(claim=claim)
    with pytest.raises(errors.IdempotencyKeyReusedError):
        await test_app.submit(claim=replace(claim, fingerprint="other"))
    await test_app.submit(claim=replace(claim, principal="somebody else"))


async def test_submit_refusal_is_replayed(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 0, "payg")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")
    with pytest.raises(errors.InsufficientCreditsError):
        await test_app.submit(claim=claim)
    replayed = await test_app.submit(claim=claim)
    assert replayed.stored is not None
    assert replayed.stored.status == 402
    assert len(await test_app.service.queries.page(_everything(), 10)) == 1


async def test_free_plan_counts_generations_and_returns_failed_ones(make_test_app) -> None:
    test_app = make_test_app(free_generations=2)
    await test_app.submitted("free")
    failing = await test_app.submitted("free")
    with pytest.raises(errors.FreeQuotaExhaustedError, match="2 generations"):
        await test_app.submit("free")
    await test_app.cancel(failing)
    renewed = await test_app.submitted("free")
    assert renewed.holds[0].state is HoldState.HELD
    await test_app.check()


async def test_free_plan_regenerations_use_the_same_count(make_test_app) -> None:
    test_app = make_test_app(free_generations=2)
    request = await test_app.with_samples("free")
    await test_app.regenerate(request)
    renewed = await test_app.deliver(await test_app.next_job())
    with pytest.raises(errors.FreeQuotaExhaustedError):
        await test_app.regenerate(renewed)
    assert (await test_app.look(request)).state is State.AWAITING_SELECTION
    await test_app.check()


async def test_free_plan_concurrent_creates_at_the_month_turn_respect_the_quota(
    make_test_app,
) -> None:
    test_apps = [make_test_app(), make_test_app()]
    clock = test_apps[0].clock
    clock.set(datetime(2026, 12, 31, 23, 0, tzinfo=UTC))
    for _ in range(99):
        await test_apps[0].submit("free")
    told = await asyncio.gather(
        *(test_apps[n % 2].submit("free") for n in range(100)), return_exceptions=True
    )
    assert sum(not isinstance(reply, Exception) for reply in told) == 1
    assert {type(error) for error in told if isinstance(error, Exception)} == {
        errors.FreeQuotaExhaustedError
    }
    clock.set(datetime(2027, 1, 1, 0, 0, tzinfo=UTC))
    assert (await test_apps[1].submitted("free")).holds[0].month == "2027-01-01"
    await test_apps[0].check(drained=False)


async def test_model_surcharge_is_charged_on_every_plan(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 200, "pro")
    request = await test_app.with_samples(model="advanced")
    assert await test_app.balance() == 100
    await test_app.select(request)
    await test_app.deliver(await test_app.next_job())
    assert await test_app.balance() == 0


async def test_submit_with_unknown_plan_is_refused(test_app: ServiceUnderTest) -> None:
    test_app.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError):
        await test_app.submit("somebody")
    assert await test_app.service.queries.page(_everything(), 1) == []


def _everything():
    from creativeflow.services.aigeneration.storage.queries import Filters  # noqa: PLC0415

    return Filters()
