"""Two books compared, what was used, what an operator sees of an account, and doubts that a person
ends.
"""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from creativeflow.services.aigeneration.application.usage_export import (
    COLUMNS,
    UsageFormat,
    export,
    month_of,
)
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.ports import CreditsUnknownError, HoldStatus, Reservation
from creativeflow.services.aigeneration.storage.accounting import UsageFilter
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.reconciliation import ReconciliationStore
from creativeflow.services.aigeneration.workers.periodic import PeriodicTask, PeriodicTasks
from tests.support.app import ServiceUnderTest
from tests.support.fake_billing_client import Desk, billing

DAY = timedelta(days=1)


async def differences(
    world: ServiceUnderTest, *, apply: bool = False
) -> list[tuple[str, str, str, str | None]]:
    """What a reconciliation of the last day finds."""
    world.clock.advance(minutes=2)
    report = await world.service.reconciliation.run(world.clock() - DAY, apply=apply, by="test")
    return [(found.difference, found.ours, found.theirs, found.mends) for found in report.findings]


# Reconciliation


async def test_books_that_agree_show_nothing_at_any_moment_of_a_request(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    request = await world.submitted()
    assert await differences(world) == []
    request = await world.deliver(await world.next_job())
    assert await differences(world) == []
    await world.drain()
    assert await differences(world) == []
    await world.select(request)
    assert await differences(world) == []
    await world.cancel(request)
    assert await differences(world) == []
    await world.drain()
    assert await differences(world) == []


async def test_a_capture_and_a_release_that_were_lost_are_found_and_posted_once(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    kept, given_back = await world.with_samples(), await world.submitted()
    await world.cancel(given_back)
    await world.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await world.database.execute(
        "UPDATE holds SET settled_at = $1 WHERE state <> 'held'", world.clock()
    )
    expected = {
        ("capture_missing", "captured", "held", "credits.capture"),
        ("release_missing", "released", "held", "credits.release"),
    }
    assert set(await differences(world)) == expected
    owed = "SELECT count(*) FROM outbox WHERE topic LIKE 'credits.%'"
    assert await world.database.fetchval(owed) == 0, "looking posts nothing"
    for _ in range(2):
        assert set(await differences(world, apply=True)) == expected
        assert await world.database.fetchval(owed) == 2, "each is posted once"
    assert await world.balance() == 450
    await world.drain()
    assert await differences(world) == []
    assert await world.balance() == 475
    for request in (kept, given_back):
        assert (await world.events(request)).count("compensation_posted") == 1


async def test_a_charge_that_was_given_up_is_a_difference_of_the_books(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    await world.with_samples()
    await world.database.execute(
        "UPDATE outbox SET parked_reason = 'test' WHERE topic = 'credits.capture'"
    )
    [message] = await world.service.outbox.list_open(parked_only=True, most=10)
    assert await world.service.outbox.drop(message["id"], by="op", now=world.clock())
    await world.drain()
    counts = await world.service.queries.invariants(world.clock())
    assert [name for name, count in counts.items() if count] == []
    assert await differences(world, apply=True) == [
        ("capture_missing", "captured", "held", "credits.capture")
    ]
    await world.drain()
    assert await differences(world) == []
    assert await world.balance() == 475


async def test_what_nobody_decided_is_only_reported(make_world) -> None:
    world: ServiceUnderTest = make_world()
    await world.grant("user", 500, "payg")
    working = await world.submitted()
    await Ledger(world.database).resolve(working.holds[0].key, "release")
    assert await differences(world, apply=True) == [("hold_vanished", "held", "released", None)]
    await world.deliver(await world.next_job())
    assert await differences(world, apply=True) == [("not_charged", "captured", "released", None)]
    await world.drain()
    assert await world.balance() == 500
    assert await world.service.account_flags.flagged("user")


async def test_a_key_of_the_credit_service_that_is_not_ours_is_left_alone(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    foreign = Reservation(key="another-system:1", user_id="user", amount=7, action="hd_export")
    await world.credits.hold(foreign)
    world.clock.advance(days=2)
    assert await differences(world, apply=True) == [("unknown_here", "absent", "held", None)]
    await world.drain()
    assert await world.balance() == 493
    await world.credits.release(foreign)


async def test_a_wrong_count_of_free_generations_is_set_right_only_when_told(
    world: ServiceUnderTest,
) -> None:
    await world.submitted("free")
    await world.database.execute("UPDATE free_usage SET used = 42")
    assert await differences(world) == [("free_count", "42", "1", "count")]
    assert await differences(world, apply=True) == [("free_count", "42", "1", "count")]
    assert await differences(world) == []


async def test_a_credit_service_that_does_not_answer_is_counted_and_not_judged(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 500, "payg")
    await world.submitted()
    world.clock.advance(minutes=2)
    world.credits.faults.append("before")
    report = await world.service.reconciliation.run(world.clock() - DAY)
    assert (report.compared, report.unanswered, report.findings) == (1, 1, [])


async def test_a_decision_that_the_credit_service_cannot_take_now_is_asked_for_again(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    world.credits.faults.append("conflict")
    request = await world.submitted()
    world.clock.advance(minutes=1)
    world.credits.faults.append("conflict")
    await world.sweep()
    key = f"{request.id}:samples:1:1"
    assert await world.parked_holds() == [key]
    world.credits.faults.append("before")
    with pytest.raises(errors.CreditsUnavailableError):
        await world.generations.decide_hold(key, charged=False, by="operator")
    assert await world.parked_holds() == [key]
    await world.generations.decide_hold(key, charged=False, by="operator")
    assert (await world.look(request)).state is State.PENDING


async def test_a_credit_service_that_goes_away_between_two_looks_is_counted_too(
    world: ServiceUnderTest, monkeypatch
) -> None:
    await world.grant("user", 25, "payg")
    await world.cancel(await world.submitted())
    await world.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await world.database.execute("UPDATE holds SET settled_at = $1", world.clock())
    world.clock.advance(hours=1)
    find, asked = world.credits.find, 0

    async def goes_away(reservation: Reservation) -> HoldStatus:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise CreditsUnknownError("simulated")
        return await find(reservation)

    monkeypatch.setattr(world.credits, "find", goes_away)
    report = await world.service.reconciliation.run(world.clock() - DAY)
    assert (asked, report.unanswered, report.findings) == (3, 1, [])
    await differences(world, apply=True)
    await world.drain()
    assert await world.balance() == 25


async def test_one_process_of_all_looks_for_differences_once_an_hour(make_world) -> None:
    worlds: list[ServiceUnderTest] = [make_world(), make_world()]
    done: list[str] = []

    def noting(world: ServiceUnderTest) -> PeriodicTasks:
        async def note() -> None:
            done.append("chore")

        async def fail() -> None:
            raise RuntimeError

        tasks = (
            PeriodicTask("fails", timedelta(hours=1), fail),
            PeriodicTask("notes", timedelta(hours=1), note),
        )
        return PeriodicTasks(
            tasks, take_turn=ReconciliationStore(world.database).take_turn, now=world.clock
        )

    both = [noting(world) for world in worlds]
    for minutes in (0, 20, 30, 45):
        worlds[0].clock.advance(minutes=minutes)
        for tasks in both:
            await tasks.step()
    assert len(done) == 2


async def test_the_chores_of_the_service_are_done_and_the_figures_follow(
    world: ServiceUnderTest,
) -> None:
    await world.grant("user", 25, "payg")
    await world.with_samples()
    await world.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await world.database.execute("UPDATE holds SET settled_at = $1", world.clock())
    world.clock.advance(minutes=2)
    await world.service.periodic_tasks.step()
    figure = "ai_generation_book_differences"
    assert REGISTRY.get_sample_value(figure, {"difference": "capture_missing"}) == 1
    await world.service.reconciliation.run(world.clock() - DAY, apply=True)
    await world.drain()
    world.clock.advance(hours=1)
    await world.service.periodic_tasks.step()
    assert REGISTRY.get_sample_value(figure, {"difference": "capture_missing"}) == 0


async def test_a_run_can_be_bounded_and_says_that_it_was(world: ServiceUnderTest) -> None:
    await world.grant("user", 500, "payg")
    for _ in range(3):
        await world.submitted()
    world.clock.advance(minutes=2)
    report = await world.service.reconciliation.run(world.clock() - DAY, most=0)
    assert (report.compared, report.complete) == (0, False)
    assert (await world.service.reconciliation.run(world.clock() - DAY)).complete


# The usage log


async def used(world: ServiceUnderTest, as_: UsageFormat, **wanted: str) -> str:
    """The export of this month."""
    since, until = month_of(f"{world.clock():%Y-%m}")
    rows = world.service.accounting.usage(UsageFilter(since=since, until=until, **wanted))
    return "".join([line async for line in export(rows, as_)])


async def test_every_action_that_took_place_is_one_row_whatever_paid_for_it(
    world: ServiceUnderTest,
) -> None:
    await world.grant("pays", 500, "payg")
    await world.grant("pro", 200, "pro")
    for user_id, resolution in (("pays", None), ("free", None), ("pro", "4K")):
        request = await world.with_samples(user_id)
        await world.select(request, resolution=resolution)
        await world.deliver(await world.next_job())
    failed = await world.submitted("pays")
    await world.cancel(failed)
    rows = list(csv.DictReader(io.StringIO(await used(world, UsageFormat.CSV))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["user_id"], row["action"], row["paid_by"], row["credits"]) for row in rows] == [
        ("pays", "sample_generation", "credits", "0.25"),
        ("pays", "standard_generation", "credits", "1.00"),
        ("free", "sample_generation", "allowance", "0.00"),
        ("free", "standard_generation", "plan", "0.00"),
        ("pro", "sample_generation", "plan", "0.00"),
        ("pro", "hd_export", "credits", "2.00"),
    ]
    assert {row["model"] for row in rows} == {"standard"}


async def test_the_usage_of_one_user_as_json_lines(world: ServiceUnderTest) -> None:
    await world.with_samples("free")
    await world.with_samples("other")
    (line,) = (await used(world, UsageFormat.JSONL, user_id="other")).splitlines()
    assert json.loads(line)["user_id"] == "other"
    assert await used(world, UsageFormat.JSONL, project_id="none") == ""


async def test_a_rejected_prompt_that_is_charged_is_in_the_log_and_one_that_is_not_is_not(
    make_world,
) -> None:
    charging, generous = make_world(), make_world(charge_rejected=False)
    for world in (charging, generous):
        await world.grant("user", 25, "payg")
        await world.submitted()
        await world.fail(await world.next_job(), "prompt_rejected")
    assert len((await used(charging, UsageFormat.JSONL)).splitlines()) == 1
    await charging.check()


async def test_more_rows_than_fit_a_page_come_in_order_and_whole(world: ServiceUnderTest) -> None:
    await world.database.execute(
        """INSERT INTO usage_log (request_id, user_id, stage, round, action, paid_by, amount, plan,
            at)
           SELECT gen_random_uuid(), '=cmd', 'samples', 1, 'sample_generation', 'plan', 0, 'pro',
                  $1::timestamptz + (n / 7) * interval '1 ms' FROM generate_series(1, 2345) n""",
        datetime(2026, 2, 3, tzinfo=UTC),
    )
    since, until = month_of("2026-02")
    rows = [
        row async for row in world.service.accounting.usage(UsageFilter(since=since, until=until))
    ]
    assert len({row["id"] for row in rows}) == len(rows) == 2345
    assert rows == sorted(rows, key=lambda row: (row["at"], row["id"]))
    assert "\r\n" not in (await used(world, UsageFormat.CSV)).removesuffix("\r\n")
    exported = export(
        world.service.accounting.usage(UsageFilter(since=since, until=until)), UsageFormat.CSV
    )
    lines = [line async for line in exported]
    assert "'=cmd" in lines[1]
    assert await world.service.accounting.forget_usage(until) == 2345


@pytest.mark.parametrize(
    ("month", "until"),
    [("2026-11", datetime(2026, 12, 1, tzinfo=UTC)), ("2026-12", datetime(2027, 1, 1, tzinfo=UTC))],
)
def test_a_month_ends_where_the_next_begins(month: str, until: datetime) -> None:
    assert month_of(month)[1] == until


# A billing adapter without memory, all the way


@pytest.fixture
async def desk(database_url: str, faithful_billing: int) -> AsyncIterator[Desk]:
    """The adapter as it is."""
    async with billing(
        database_url, faithful_billing, refund="/users/{user_id}/credits/refund"
    ) as made:
        await made.give(
            "user", 500, "pro", subscription={"features": {"unlimited_standard_generations": False}}
        )
        yield made


async def test_the_whole_way_on_the_billing_adapter_costs_what_it_should(
    desk: Desk, make_world
) -> None:
    world: ServiceUnderTest = make_world(desk.credits)
    request = await world.with_samples()
    await world.select(request)
    done = await world.deliver(await world.next_job())
    assert done.state is State.COMPLETED
    await world.check()
    assert await desk.balance("user") == 375
    assert await differences(world) == []


async def test_a_refund_that_nobody_makes_flags_the_account_until_a_person_has_made_it(
    desk: Desk, make_world
) -> None:
    world: ServiceUnderTest = make_world(desk.credits)
    request = await world.submitted()
    await world.cancel(request)
    for _ in range(3):
        await world.service.relay.step()
    (flag,) = await world.service.account_flags.open_flags(10)
    assert (flag["user_id"], flag["reason"], flag["hold_key"]) == (
        "user",
        "refund_failed",
        request.holds[0].key,
    )
    assert "credits_problem" in world.notifier.types()
    world.service.entitlements.forget("user")
    with pytest.raises(errors.AccountRestrictedError):
        await world.submit()
    world.clock.advance(days=1)
    await world.service.relay.step()
    assert await desk.balance("user") == 475

    await desk.control(
        accounts={
            "user": {
                "balance": "5.00",
                "subscription": {"current_plan_name": "Pro", "status": "Active"},
            }
        }
    )  # by hand, over there
    await desk.database.execute("UPDATE billing_journal SET state = 'refunding'")
    await world.generations.decide_hold(request.holds[0].key, charged=False, by="operator")
    assert await world.service.outbox.replay_for(request.holds[0].key, now=world.clock()) == 1
    assert (
        await world.service.account_flags.clear(
            "user", by="operator", note="refunded by hand", now=world.clock()
        )
        == 1
    )
    await world.check()
    assert await desk.balance("user") == 500
    assert (await world.submit()).request is not None


async def test_a_deduction_without_an_answer_is_parked_and_goes_on_when_a_person_has_looked(
    desk: Desk, make_world
) -> None:
    world: ServiceUnderTest = make_world(desk.credits)
    await desk.control(faults=["error_after"])
    request = await world.submitted()
    assert request.state is State.VALIDATING_CREDITS
    await desk.database.execute("UPDATE billing_journal SET since = since - interval '5 minutes'")
    world.clock.advance(minutes=1)
    await world.sweep()
    await world.sweep()
    assert await world.parked_holds() == [f"{request.id}:samples:1:1"]
    assert (await world.service.queries.invariants(world.clock()))["holds_parked"] == 1
    (parked,) = await world.service.accounting.parked_holds(10)
    assert (parked["user_id"], parked["amount"]) == ("user", 25)
    await world.generations.decide_hold(parked["key"], charged=True, by="operator")
    assert (await world.look(request)).state is State.PENDING
    assert (await world.look(request)).holds[0].state is HoldState.HELD
    await world.service.account_flags.clear(
        "user", by="operator", note="was charged", now=world.clock()
    )
    await world.deliver(await world.next_job())
    await world.check()
    assert (await desk.control())["calls"]["deduct"] == 1
    assert await desk.balance("user") == 475


async def test_an_adapter_that_answers_after_our_deadline_charges_once_and_the_request_goes_on(
    desk: Desk, make_world
) -> None:
    world: ServiceUnderTest = make_world(desk.credits, hold_timeout=0.2)
    await desk.control(faults=["slow"])
    request = await world.submitted()
    assert request.state is State.VALIDATING_CREDITS
    world.clock.advance(minutes=1)
    await world.sweep()
    await world.sweep()
    for _ in range(100):
        if (await world.look(request)).state is State.PENDING:
            break
        await world.sweep()
    assert (await world.look(request)).state is State.PENDING
    await world.deliver(await world.next_job())
    await world.check()
    assert await desk.balance("user") == 475


async def test_deciding_about_an_unknown_key_is_not_found_and_about_a_settled_one_changes_nothing(
    world: ServiceUnderTest,
) -> None:
    with pytest.raises(errors.NotFoundError):
        await world.generations.decide_hold("nothing", charged=True, by="operator")
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    await world.generations.decide_hold(request.holds[0].key, charged=False, by="operator")
    assert (await world.look(request)).holds[0].state is HoldState.HELD
    await world.cancel(request)
