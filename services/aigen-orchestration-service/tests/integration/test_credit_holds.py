"""Every credit is exact: holds, captures and releases under every fault a credit service can
have.
"""

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


async def test_samples_are_held_then_captured_when_they_come(world: ServiceUnderTest) -> None:
    await world.grant("user", 100, "payg")
    request = await world.submitted()
    assert states(request) == {"samples:1:1": HoldState.HELD}
    assert await world.balance() == 75
    await world.deliver(await world.next_job())
    await world.drain()
    assert states(await world.look(request)) == {"samples:1:1": HoldState.CAPTURED}
    assert await world.balance() == 75


async def test_what_one_user_gets_back_from_several_holds_at_once_is_their_sum(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 100, "payg")
    ledger = world.service.ledger
    assert all(
        [
            await ledger.hold(f"hold-{n}", user_id="user", amount=25, action="final")
            for n in range(4)
        ]
    )
    assert await world.balance() == 0
    told = await asyncio.gather(
        *(ledger.resolve(f"hold-{n}", "release" if n else "capture") for n in range(4)),
        ledger.resolve("hold-never-placed", "release"),
    )
    assert told == ["capture", "release", "release", "release", None]
    assert await world.balance() == 75
    assert await ledger.resolve("hold-1", "capture") == "release"
    assert await world.balance() == 75


async def test_holds_of_many_users_at_once_are_each_their_own(world: ServiceUnderTest) -> None:
    for number in range(40):
        await world.grant(f"user-{number}", 25 if number % 2 else 24, "payg")
    ledger = world.service.ledger
    keys = [f"{which}-{number}" for which in ("one", "two") for number in range(40)]
    held = await asyncio.gather(
        *(ledger.hold(key, user_id=f"user-{key[4:]}", amount=25, action="final") for key in keys)
    )
    # Which of a user's two comes first is nobody's business; that one of them fits is.
    taken = [key for key, fits in zip(keys, held, strict=True) if fits]
    assert sorted(int(key[4:]) for key in taken) == list(range(1, 40, 2))
    assert [await world.balance(f"user-{n}") for n in range(4)] == [24, 0, 24, 0]
    await asyncio.gather(*(ledger.resolve(key, "release") for key in taken))
    assert [await world.balance(f"user-{n}") for n in range(4)] == [24, 25, 24, 25]


async def test_the_whole_way_costs_what_was_quoted(world: ServiceUnderTest) -> None:
    await world.grant("user", 1000, "payg")
    quoted = await world.generations.quote(
        "user", {"input_prompt": "x", "output_format": "InstagramPost_1x1"}
    )
    assert quoted["total"] == "1.25"
    request = await world.with_samples()
    await world.select(request)
    done = await world.deliver(await world.next_job())
    await world.drain()
    assert done.state is State.COMPLETED
    assert await world.balance() == 1000 - 125


async def test_a_plan_that_includes_standard_work_pays_only_for_high_resolution(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 200, "pro")
    request = await world.with_samples()
    assert request.holds == ()
    chosen = (await world.select(request, resolution="4K")).request
    assert chosen is not None
    assert states(chosen) == {"final:1:1": HoldState.HELD}
    await world.deliver(await world.next_job())
    await world.drain()
    assert await world.balance() == 0


async def test_without_enough_credits_nothing_starts_and_nothing_is_kept(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 24, "payg")
    with pytest.raises(errors.InsufficientCreditsError, match=r"0\.25"):
        await world.submit()
    assert await world.balance() == 24
    await world.dispatch()
    assert not world.engine.published
    await world.drain()
    assert world.notifier.types() == ["generation_failed"]


async def test_exactly_enough_is_enough(world: ServiceUnderTest) -> None:
    await world.grant("user", 25, "payg")
    assert (await world.submitted()).state is State.PENDING
    assert await world.balance() == 0


async def test_a_refused_final_keeps_the_samples_and_can_be_chosen_again_after_a_top_up(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 199, "pro")
    request = await world.with_samples()
    with pytest.raises(errors.InsufficientCreditsError):
        await world.select(request, 0, resolution="4K")
    refused = await world.look(request)
    assert (refused.state, refused.selected_sample_id) == (State.AWAITING_SELECTION, None)
    await world.grant("user", 1)
    chosen = await world.select(request, 2, resolution="4K")
    assert chosen.answer.body["cost"]["final"] == "2.00"
    await world.deliver(await world.next_job())
    assert (await world.look(request)).state is State.COMPLETED


@pytest.mark.parametrize(
    "code", ["provider_error", "unsafe_output", "workflow_error", "something_new"]
)
async def test_a_failure_on_our_side_never_costs_credits(
    world: ServiceUnderTest, code: str
) -> None:
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    for _ in range(3):
        await world.fail(await world.next_job(), code)
        world.clock.advance(minutes=1)
    failed = await world.look(request)
    assert failed.state is State.FAILED
    await world.drain()
    assert await world.balance() == 25


@pytest.mark.parametrize(("charge", "left"), [(True, 0), (False, 25)])
async def test_a_rejected_prompt_costs_its_sample_set_unless_a_setting_says_otherwise(
    make_world, charge: bool, left: int
) -> None:
    world = make_world(charge_rejected=charge)
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    await world.fail(await world.next_job(), "prompt_rejected")
    assert (await world.look(request)).state is State.CONTENT_REJECTED
    await world.drain()
    assert await world.balance() == left
    await world.check()


async def test_cancelling_at_any_point_gives_back_what_was_not_delivered(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 1000, "payg")
    waiting = await world.submitted()
    assert (await world.cancel(waiting)).answer.body["outcome"] == "cancelled"
    working = await world.submitted()
    await world.next_job()
    assert (await world.cancel(working)).answer.body["outcome"] == "cancellation_requested"
    shown = await world.with_samples()
    await world.select(shown)
    await world.next_job()
    await world.cancel(shown)
    assert (await world.cancel(shown)).answer.body["outcome"] == "already_terminal"
    await world.drain()
    assert await world.balance() == 1000 - 25


async def test_a_timeout_is_unknown_and_the_sweeper_finds_out_that_it_was_held(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    world.credits.faults.append("after")
    reply = await world.submit(claim=IdempotencyClaim(principal="p", key="k", fingerprint="f"))
    assert reply.answer.body["status"] == "VALIDATING_CREDITS"
    assert reply.answer.status == 202
    world.clock.advance(minutes=1)
    await world.sweep()
    assert reply.request is not None
    settled = await world.look(reply.request)
    assert settled.state is State.PENDING
    assert await world.balance() == 0
    again = await world.submit(claim=IdempotencyClaim(principal="p", key="k", fingerprint="f"))
    assert again.stored is not None
    assert '"VALIDATING_CREDITS"' in (again.stored.body or "")


async def test_a_hold_that_never_reached_the_credit_service_is_placed_by_the_sweeper(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    world.credits.faults.append("before")
    request = await world.submitted()
    assert await world.balance() == 25
    world.clock.advance(minutes=1)
    world.credits.faults.append("before")
    await world.sweep()
    assert (await world.look(request)).state is State.VALIDATING_CREDITS
    await world.sweep()
    assert (await world.look(request)).state is State.PENDING
    assert await world.balance() == 0


async def test_a_request_cancelled_while_its_hold_is_unknown_gives_the_credits_back(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    world.credits.faults.append("after")
    request = await world.submitted()
    await world.cancel(request)
    assert await world.balance() == 0
    world.clock.advance(minutes=1)
    await world.sweep()
    await world.drain()
    assert await world.balance() == 25
    assert "credits_released_late" in await world.events(request)


async def test_a_cancel_that_overtakes_the_hold_gives_it_back(world: ServiceUnderTest) -> None:
    await world.grant("user", 25, "payg")
    world.credits.gate = asyncio.Event()
    submitting = asyncio.create_task(world.submit())
    while not (found := await world.service.queries.page(_everything(), 1)):
        await asyncio.sleep(0)
    await world.cancel(found[0])
    world.credits.gate.set()
    reply = await submitting
    assert reply.request is not None
    assert reply.request.state is State.CANCELLED
    await world.drain()
    assert await world.balance() == 25


async def test_a_key_that_stands_for_another_hold_is_never_guessed_away(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    world.credits.faults.extend(["conflict", "conflict"])
    request = await world.submitted()
    world.clock.advance(minutes=1)
    await world.sweep()
    assert (await world.look(request)).state is State.VALIDATING_CREDITS
    assert await world.parked_holds() == [f"{request.id}:samples:1:1"]
    world.service.entitlements.forget("user")
    with pytest.raises(errors.AccountRestrictedError):
        await world.submit()
    world.clock.advance(hours=1)
    await world.sweep()
    assert (await world.look(request)).state is State.FAILED

    await world.generations.decide_hold(f"{request.id}:samples:1:1", charged=False, by="operator")
    await world.service.account_flags.clear(
        "user", by="operator", note="looked at", now=world.clock()
    )
    await world.drain()
    assert await world.balance() == 25
    assert "credits_problem" in world.notifier.types()


async def test_captures_and_releases_are_paid_however_often_the_credit_service_fails(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 50, "payg")
    kept, given_back = await world.submitted(), await world.submitted()
    await world.deliver(await world.next_job())
    await world.cancel(given_back)
    world.credits.faults.extend(["before", "after", "after", "before"])
    await world.drain()
    assert await world.balance() == 25
    assert {hold.state for hold in (await world.look(kept)).holds} == {HoldState.CAPTURED}


async def test_a_late_success_after_the_end_is_not_applied_and_not_paid(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    last = None
    for _ in range(3):
        last = await world.next_job()
        await world.fail(last)
        world.clock.advance(minutes=1)
    assert last is not None
    await world.fail(last)
    with pytest.raises(errors.StaleResultError):
        await world.deliver(last)
    assert (await world.look(request)).state is State.FAILED
    assert "stale_result" in await world.events(request)
    await world.drain()
    assert await world.balance() == 25


async def test_regenerating_costs_a_sample_set_again_and_forgets_the_old_samples(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 50, "payg")
    request = await world.with_samples()
    old = request.samples[0]["asset_id"]
    await world.regenerate(request)
    renewed = await world.deliver(await world.next_job())
    assert (renewed.round, renewed.state) == (2, State.AWAITING_SELECTION)
    with pytest.raises(errors.InvalidRequestError) as refused:
        await world.generations.select_sample(
            request.id, SampleChoice(sample_id=old), Caller(name="test")
        )
    assert refused.value.errors[0]["code"] == "unknown_sample"
    await world.drain()
    assert await world.balance() == 0


async def test_rounds_are_bounded(make_world) -> None:
    world = make_world(max_rounds=2)
    await world.grant("user", 0, "pro")
    request = await world.with_samples()
    await world.regenerate(request)
    await world.deliver(await world.next_job())
    with pytest.raises(errors.TooManyRoundsError, match="2 rounds"):
        await world.regenerate(request)
    await world.check()


async def test_fifty_double_clicks_on_two_samples_select_one_and_charge_once(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 1000, "pro")
    request = await world.with_samples()
    clicks = [world.select(request, click % 2, resolution="4K") for click in range(50)]
    told = await asyncio.gather(*clicks, return_exceptions=True)
    chosen = (await world.look(request)).selected_sample_id
    won = [reply for reply in told if not isinstance(reply, Exception)]
    assert {reply.answer.body["selected_sample_id"] for reply in won} == {chosen}
    assert {type(error) for error in told if isinstance(error, Exception)} <= {
        errors.AlreadySelectedError,
        errors.ActionInProgressError,
    }
    assert await world.balance() == 800
    await world.deliver(await world.next_job())
    assert not world.engine.jobs


async def test_regenerate_and_cancel_at_once_end_in_one_of_both(world: ServiceUnderTest) -> None:
    await world.grant("user", 1000, "payg")
    for _ in range(10):
        request = await world.with_samples()
        await asyncio.gather(
            world.regenerate(request), world.cancel(request), return_exceptions=True
        )
        await world.dispatch()
        if world.engine.jobs:
            job = world.engine.jobs.popleft()
            if not (await world.look(request)).terminal:
                await world.deliver(job)
                await world.cancel(request)
    await world.check()


async def test_a_thousand_identical_creates_are_one_request_one_hold_one_job_and_equal_answers(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 10_000, "payg")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")

    async def create():
        while True:
            try:
                return await world.submit(claim=claim)
            except errors.IdempotencyKeyInFlightError:
                await asyncio.sleep(0.01)

    replies = await asyncio.gather(*(create() for _ in range(1000)))
    first = [reply for reply in replies if reply.stored is None]
    bodies = {reply.stored.body for reply in replies if reply.stored is not None}
    assert len(first) == 1
    assert len(bodies) == 1
    assert await world.balance() == 10_000 - 25
    await world.dispatch()
    assert len(world.engine.published) == 1


async def test_a_key_with_another_body_is_refused(world: ServiceUnderTest) -> None:
    await world.grant("user", 0, "pro")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")
    await world.submit(claim=claim)
    with pytest.raises(errors.IdempotencyKeyReusedError):
        await world.submit(claim=replace(claim, fingerprint="other"))
    await world.submit(claim=replace(claim, principal="somebody else"))


async def test_a_refusal_is_replayed_as_a_refusal(world: ServiceUnderTest) -> None:
    await world.grant("user", 0, "payg")
    claim = IdempotencyClaim(principal="p", key="k", fingerprint="f")
    with pytest.raises(errors.InsufficientCreditsError):
        await world.submit(claim=claim)
    replayed = await world.submit(claim=claim)
    assert replayed.stored is not None
    assert replayed.stored.status == 402
    assert len(await world.service.queries.page(_everything(), 10)) == 1


async def test_the_free_plan_counts_generations_and_gives_back_what_failed_on_our_side(
    make_world,
) -> None:
    world = make_world(free_generations=2)
    await world.submitted("free")
    failing = await world.submitted("free")
    with pytest.raises(errors.FreeQuotaExhaustedError, match="2 generations"):
        await world.submit("free")
    await world.cancel(failing)
    renewed = await world.submitted("free")
    assert renewed.holds[0].state is HoldState.HELD
    await world.check()


async def test_the_free_plan_pays_regenerations_from_the_same_count(make_world) -> None:
    world = make_world(free_generations=2)
    request = await world.with_samples("free")
    await world.regenerate(request)
    renewed = await world.deliver(await world.next_job())
    with pytest.raises(errors.FreeQuotaExhaustedError):
        await world.regenerate(renewed)
    assert (await world.look(request)).state is State.AWAITING_SELECTION
    await world.check()


async def test_at_the_turn_of_the_month_exactly_the_last_free_generation_passes(make_world) -> None:
    worlds = [make_world(), make_world()]
    clock = worlds[0].clock
    clock.set(datetime(2026, 12, 31, 23, 0, tzinfo=UTC))
    for _ in range(99):
        await worlds[0].submit("free")
    told = await asyncio.gather(
        *(worlds[n % 2].submit("free") for n in range(100)), return_exceptions=True
    )
    assert sum(not isinstance(reply, Exception) for reply in told) == 1
    assert {type(error) for error in told if isinstance(error, Exception)} == {
        errors.FreeQuotaExhaustedError
    }
    clock.set(datetime(2027, 1, 1, 0, 0, tzinfo=UTC))
    assert (await worlds[1].submitted("free")).holds[0].month == "2027-01-01"
    await worlds[0].check(drained=False)


async def test_an_advanced_model_costs_its_surcharge_on_every_plan(world: ServiceUnderTest) -> None:
    await world.grant("user", 200, "pro")
    request = await world.with_samples(model="advanced")
    assert await world.balance() == 100
    await world.select(request)
    await world.deliver(await world.next_job())
    assert await world.balance() == 0


async def test_when_the_plan_cannot_be_known_nothing_starts(world: ServiceUnderTest) -> None:
    world.credits.faults.append("entitlements")
    with pytest.raises(errors.CreditsUnavailableError):
        await world.submit("somebody")
    assert await world.service.queries.page(_everything(), 1) == []


def _everything():
    from creativeflow.services.aigeneration.storage.queries import Filters  # noqa: PLC0415

    return Filters()
