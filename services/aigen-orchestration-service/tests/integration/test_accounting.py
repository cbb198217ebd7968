"""Reconciliation, the usage log, account statements, and holds in doubt."""

import asyncio
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
from tests.support.fake_billing_client import FakeBilling, billing

DAY = timedelta(days=1)


async def differences(
    test_app: ServiceUnderTest, *, apply: bool = False
) -> list[tuple[str, str, str, str | None]]:
    """Return the differences of the last day."""
    test_app.clock.advance(minutes=2)
    report = await test_app.service.reconciliation.run(
        test_app.clock() - DAY, apply=apply, by="test"
    )
    return [(found.difference, found.ours, found.theirs, found.mends) for found in report.findings]


# Reconciliation


async def test_reconcile_without_differences_reports_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    request = await test_app.submitted()
    assert await differences(test_app) == []
    request = await test_app.deliver(await test_app.next_job())
    assert await differences(test_app) == []
    await test_app.drain()
    assert await differences(test_app) == []
    await test_app.select(request)
    assert await differences(test_app) == []
    await test_app.cancel(request)
    assert await differences(test_app) == []
    await test_app.drain()
    assert await differences(test_app) == []


async def test_reconcile_lost_capture_and_release_are_posted_once(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 500, "payg")
    kept, given_back = await test_app.with_samples(), await test_app.submitted()
    await test_app.cancel(given_back)
    await test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await test_app.database.execute(
        "UPDATE holds SET settled_at = $1 WHERE state <> 'held'", test_app.clock()
    )
    expected = {
        ("capture_missing", "captured", "held", "credits.capture"),
        ("release_missing", "released", "held", "credits.release"),
    }
    assert set(await differences(test_app)) == expected
    owed = "SELECT count(*) FROM outbox WHERE topic LIKE 'credits.%'"
    assert await test_app.database.fetchval(owed) == 0, "looking posts nothing"
    for _ in range(2):
        assert set(await differences(test_app, apply=True)) == expected
        assert await test_app.database.fetchval(owed) == 2, "each is posted once"
    assert await test_app.balance() == 450
    await test_app.drain()
    assert await differences(test_app) == []
    assert await test_app.balance() == 475
    for request in (kept, given_back):
        assert (await test_app.events(request)).count("compensation_posted") == 1


async def test_reconcile_dropped_capture_is_a_difference(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    await test_app.with_samples()
    await test_app.database.execute(
        "UPDATE outbox SET parked_reason = 'test' WHERE topic = 'credits.capture'"
    )
    [message] = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert await test_app.service.outbox.drop(message["id"], by="op", now=test_app.clock())
    await test_app.drain()
    counts = await test_app.service.invariants.count(test_app.clock())
    assert [name for name, count in counts.items() if count] == []
    assert await differences(test_app, apply=True) == [
        ("capture_missing", "captured", "held", "credits.capture")
    ]
    await test_app.drain()
    assert await differences(test_app) == []
    assert await test_app.balance() == 475


async def test_reconcile_undecided_differences_are_only_reported(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app()
    await test_app.grant("user", 500, "payg")
    working = await test_app.submitted()
    await Ledger(test_app.database).resolve(working.holds[0].key, "release")
    assert await differences(test_app, apply=True) == [("hold_vanished", "held", "released", None)]
    await test_app.deliver(await test_app.next_job())
    assert await differences(test_app, apply=True) == [
        ("not_charged", "captured", "released", None)
    ]
    await test_app.drain()
    assert await test_app.balance() == 500
    assert await test_app.service.account_flags.flagged("user")


async def test_reconcile_unknown_key_is_reported_and_not_changed(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 500, "payg")
    foreign = Reservation(key="another-system:1", user_id="user", amount=7, action="hd_export")
    await test_app.credits.hold(foreign)
    test_app.clock.advance(days=2)
    assert await differences(test_app, apply=True) == [("unknown_here", "absent", "held", None)]
    await test_app.drain()
    assert await test_app.balance() == 493
    await test_app.credits.release(foreign)


async def test_reconcile_wrong_free_count_is_corrected_only_with_apply(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted("free")
    await test_app.database.execute("UPDATE free_usage SET used = 42")
    assert await differences(test_app) == [("free_count", "42", "1", "count")]
    assert await differences(test_app, apply=True) == [("free_count", "42", "1", "count")]
    assert await differences(test_app) == []


async def test_reconcile_unanswered_holds_are_counted(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    await test_app.submitted()
    test_app.clock.advance(minutes=2)
    test_app.credits.faults.append("before")
    report = await test_app.service.reconciliation.run(test_app.clock() - DAY)
    assert (report.compared, report.unanswered, report.findings) == (1, 1, [])


async def test_decide_hold_with_credit_service_down_is_503(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    test_app.credits.faults.append("conflict")
    request = await test_app.submitted()
    test_app.clock.advance(minutes=1)
    test_app.credits.faults.append("conflict")
    await test_app.sweep()
    key = f"{request.id}:samples:1:1"
    assert await test_app.parked_holds() == [key]
    test_app.credits.faults.append("before")
    with pytest.raises(errors.CreditsUnavailableError):
        await test_app.generations.decide_hold(key, charged=False, by="operator")
    assert await test_app.parked_holds() == [key]
    await test_app.generations.decide_hold(key, charged=False, by="operator")
    assert (await test_app.look(request)).state is State.PENDING


async def test_reconcile_credit_service_lost_between_reads_is_counted(
    test_app: ServiceUnderTest, monkeypatch
) -> None:
    await test_app.grant("user", 25, "payg")
    await test_app.cancel(await test_app.submitted())
    await test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await test_app.database.execute("UPDATE holds SET settled_at = $1", test_app.clock())
    test_app.clock.advance(hours=1)
    find, asked = test_app.credits.find, 0

    async def goes_away(reservation: Reservation) -> HoldStatus:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise CreditsUnknownError("simulated")
        return await find(reservation)

    monkeypatch.setattr(test_app.credits, "find", goes_away)
    report = await test_app.service.reconciliation.run(test_app.clock() - DAY)
    assert (asked, report.unanswered, report.findings) == (3, 1, [])
    await differences(test_app, apply=True)
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_periodic_task_runs_once_per_interval_over_all_processes(make_test_app) -> None:
    test_apps: list[ServiceUnderTest] = [make_test_app(), make_test_app()]
    done: list[str] = []

    def noting(test_app: ServiceUnderTest) -> PeriodicTasks:
        async def record() -> None:
            done.append("task")

        async def fail() -> None:
            raise RuntimeError

        tasks = (
            PeriodicTask("fails", timedelta(hours=1), fail),
            PeriodicTask("records", timedelta(hours=1), record),
        )
        return PeriodicTasks(
            tasks, take_turn=ReconciliationStore(test_app.database).take_turn, now=test_app.clock
        )

    both = [noting(test_app) for test_app in test_apps]
    for minutes in (0, 20, 30, 45):
        test_apps[0].clock.advance(minutes=minutes)
        for tasks in both:
            await tasks.step()
            await tasks.finish()
    assert len(done) == 2


async def _lose_holds(test_app: ServiceUnderTest) -> None:
    """Let the credit service forget what it captured, as one restored from a backup does."""

    async def find(_: Reservation) -> HoldStatus:
        return HoldStatus.RELEASED

    test_app.credits.find = find  # type: ignore[method-assign]


async def _differences_of_each_hour(test_app: ServiceUnderTest, hours: int) -> list[int]:
    found = []
    for _ in range(hours):
        test_app.clock.advance(minutes=61)
        await test_app.housekeep()
        last = await test_app.service.reconciliation.last()
        assert last is not None
        found.append(last[1]["differences"])
    return found


async def test_reconciliation_compares_a_hold_that_was_resolved_long_after_it_began(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 1000, plan="payg")
    await test_app.submitted()
    await _differences_of_each_hour(test_app, 3)
    await test_app.database.execute(
        "UPDATE generation_requests SET deadline_at = deadline_at + interval '1 day'"
    )
    await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    find = test_app.credits.find
    await _lose_holds(test_app)
    assert sum(await _differences_of_each_hour(test_app, 3)) == 1
    test_app.credits.find = find  # type: ignore[method-assign]


async def test_reconciliation_after_hours_without_one_misses_nothing(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 1000, plan="payg")
    await test_app.housekeep()
    await test_app.with_samples()
    await test_app.drain()
    test_app.clock.advance(hours=9)
    find = test_app.credits.find
    await _lose_holds(test_app)
    assert sum(await _differences_of_each_hour(test_app, 2)) == 1
    test_app.credits.find = find  # type: ignore[method-assign]


async def test_reconciliation_that_reaches_its_limit_continues_where_it_stopped(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 1000, plan="payg")
    for _ in range(5):
        await test_app.with_samples()
    await test_app.drain()
    start = test_app.clock() - timedelta(days=1)
    test_app.clock.advance(minutes=10)
    run = test_app.service.reconciliation.run_from_mark
    compared = [(await run(start, overlap=timedelta(0), most=2)).compared_until for _ in range(3)]
    assert compared == sorted(set(compared))
    assert (await run(start, overlap=timedelta(0), most=2)).complete


async def test_slow_periodic_task_delays_no_other(test_app: ServiceUnderTest) -> None:
    hanging, done = asyncio.Event(), []

    async def hang() -> None:
        await hanging.wait()

    async def record() -> None:
        done.append("task")

    tasks = PeriodicTasks(
        (
            PeriodicTask("hangs", timedelta(minutes=1), hang),
            PeriodicTask("records", timedelta(minutes=1), record),
        ),
        take_turn=ReconciliationStore(test_app.database).take_turn,
        now=test_app.clock,
    )
    for _ in range(3):
        await tasks.step()
        await asyncio.sleep(0)
        test_app.clock.advance(minutes=2)
    assert done == ["task"] * 3
    hanging.set()
    await tasks.finish()


async def test_old_idempotency_keys_are_deleted_until_none_is_left(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.database.execute(
        """INSERT INTO idempotency_keys (principal, key, fingerprint, request_id, created_at)
           SELECT 'service', n::text, '', gen_random_uuid(),
                  $1::timestamptz - CASE WHEN n <= 12000 THEN interval '30 d' ELSE '0 s' END
           FROM generate_series(1, 12001) n""",
        test_app.clock(),
    )
    await test_app.housekeep()
    assert await test_app.database.fetchval("SELECT count(*) FROM idempotency_keys") == 1


async def test_periodic_tasks_reconcile_and_update_the_metric(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    await test_app.with_samples()
    await test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await test_app.database.execute("UPDATE holds SET settled_at = $1", test_app.clock())
    test_app.clock.advance(minutes=2)
    await test_app.housekeep()
    figure = "ai_generation_reconciliation_differences"
    assert REGISTRY.get_sample_value(figure, {"difference": "capture_missing"}) == 1
    await test_app.service.reconciliation.run(test_app.clock() - DAY, apply=True)
    await test_app.drain()
    test_app.clock.advance(hours=1)
    await test_app.housekeep()
    assert REGISTRY.get_sample_value(figure, {"difference": "capture_missing"}) == 0


async def test_reconcile_bounded_run_is_reported_as_incomplete(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    for _ in range(3):
        await test_app.submitted()
    test_app.clock.advance(minutes=2)
    report = await test_app.service.reconciliation.run(test_app.clock() - DAY, most=0)
    assert (report.compared, report.complete) == (0, False)
    assert (await test_app.service.reconciliation.run(test_app.clock() - DAY)).complete


# The usage log


async def used(test_app: ServiceUnderTest, as_: UsageFormat, **wanted: str) -> str:
    """Return the export of this month."""
    since, until = month_of(f"{test_app.clock():%Y-%m}")
    rows = test_app.service.accounting.usage(UsageFilter(since=since, until=until, **wanted))
    return "".join([line async for line in export(rows, as_)])


async def test_usage_every_delivered_action_is_one_row(test_app: ServiceUnderTest) -> None:
    await test_app.grant("pays", 500, "payg")
    await test_app.grant("pro", 200, "pro")
    for user_id, resolution in (("pays", None), ("free", None), ("pro", "4K")):
        request = await test_app.with_samples(user_id)
        await test_app.select(request, resolution=resolution)
        await test_app.deliver(await test_app.next_job())
    failed = await test_app.submitted("pays")
    await test_app.cancel(failed)
    rows = list(csv.DictReader(io.StringIO(await used(test_app, UsageFormat.CSV))))
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


async def test_usage_of_one_user_as_json_lines(test_app: ServiceUnderTest) -> None:
    await test_app.with_samples("free")
    await test_app.with_samples("other")
    (line,) = (await used(test_app, UsageFormat.JSONL, user_id="other")).splitlines()
    assert json.loads(line)["user_id"] == "other"
    assert await used(test_app, UsageFormat.JSONL, project_id="none") == ""


async def test_usage_rejected_prompt_appears_only_if_charged(make_test_app) -> None:
    charging, generous = make_test_app(), make_test_app(charge_rejected=False)
    for test_app in (charging, generous):
        await test_app.grant("user", 25, "payg")
        await test_app.submitted()
        await test_app.fail(await test_app.next_job(), "prompt_rejected")
    assert len((await used(charging, UsageFormat.JSONL)).splitlines()) == 1
    await charging.check()


async def test_usage_several_pages_are_complete_and_ordered(test_app: ServiceUnderTest) -> None:
    await test_app.database.execute(
        """INSERT INTO usage_log (request_id, user_id, stage, round, action, paid_by, amount, plan,
            at)
           SELECT gen_random_uuid(), '=cmd', 'samples', 1, 'sample_generation', 'plan', 0, 'pro',
                  $1::timestamptz + (n / 7) * interval '1 ms' FROM generate_series(1, 2345) n""",
        datetime(2026, 2, 3, tzinfo=UTC),
    )
    since, until = month_of("2026-02")
    rows = [
        row
        async for row in test_app.service.accounting.usage(UsageFilter(since=since, until=until))
    ]
    assert len({row["id"] for row in rows}) == len(rows) == 2345
    assert rows == sorted(rows, key=lambda row: (row["at"], row["id"]))
    assert "\r\n" not in (await used(test_app, UsageFormat.CSV)).removesuffix("\r\n")
    exported = export(
        test_app.service.accounting.usage(UsageFilter(since=since, until=until)), UsageFormat.CSV
    )
    lines = [line async for line in exported]
    assert "'=cmd" in lines[1]
    assert await test_app.service.accounting.forget_usage(until) == 2345


@pytest.mark.parametrize(
    ("month", "until"),
    [("2026-11", datetime(2026, 12, 1, tzinfo=UTC)), ("2026-12", datetime(2027, 1, 1, tzinfo=UTC))],
)
def test_usage_months_do_not_overlap(month: str, until: datetime) -> None:
    assert month_of(month)[1] == until


# A billing adapter without idempotency


@pytest.fixture
async def fake_billing(database_url: str, faithful_billing: int) -> AsyncIterator[FakeBilling]:
    """The fake billing adapter."""
    async with billing(
        database_url, faithful_billing, refund="/users/{user_id}/credits/refund"
    ) as made:
        await made.give(
            "user", 500, "pro", subscription={"features": {"unlimited_standard_generations": False}}
        )
        yield made


async def test_billing_lifecycle_costs_the_price(fake_billing: FakeBilling, make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(fake_billing.credits)
    request = await test_app.with_samples()
    await test_app.select(request)
    done = await test_app.deliver(await test_app.next_job())
    assert done.state is State.COMPLETED
    await test_app.check()
    assert await fake_billing.balance("user") == 375
    assert await differences(test_app) == []


async def test_billing_failed_refund_flags_the_account_until_resolved(
    fake_billing: FakeBilling, make_test_app
) -> None:
    test_app: ServiceUnderTest = make_test_app(fake_billing.credits)
    request = await test_app.submitted()
    await test_app.cancel(request)
    for _ in range(3):
        await test_app.service.relays.step()
    (flag,) = await test_app.service.account_flags.open_flags(10)
    assert (flag["user_id"], flag["reason"], flag["hold_key"]) == (
        "user",
        "refund_failed",
        request.holds[0].key,
    )
    assert "credits_problem" in test_app.notifier.types()
    test_app.service.entitlements.forget("user")
    with pytest.raises(errors.AccountRestrictedError):
        await test_app.submit()
    test_app.clock.advance(days=1)
    await test_app.service.relays.step()
    assert await fake_billing.balance("user") == 475

    await fake_billing.control(
        accounts={
            "user": {
                "balance": "5.00",
                "subscription": {"current_plan_name": "Pro", "status": "Active"},
            }
        }
    )  # the operator's refund at the billing service
    await fake_billing.database.execute("UPDATE billing_journal SET state = 'refunding'")
    await test_app.generations.decide_hold(request.holds[0].key, charged=False, by="operator")
    assert await test_app.service.outbox.replay_for(request.holds[0].key, now=test_app.clock()) == 1
    assert (
        await test_app.service.account_flags.clear(
            "user", by="operator", note="refunded by hand", now=test_app.clock()
        )
        == 1
    )
    await test_app.check()
    assert await fake_billing.balance("user") == 500
    assert (await test_app.submit()).request is not None


async def test_billing_unanswered_deduction_is_parked_and_continues_after_a_decision(
    fake_billing: FakeBilling, make_test_app
) -> None:
    test_app: ServiceUnderTest = make_test_app(fake_billing.credits)
    await fake_billing.control(faults=["error_after"])
    request = await test_app.submitted()
    assert request.state is State.VALIDATING_CREDITS
    await fake_billing.database.execute(
        "UPDATE billing_journal SET since = since - interval '5 minutes'"
    )
    test_app.clock.advance(minutes=1)
    await test_app.sweep()
    await test_app.sweep()
    assert await test_app.parked_holds() == [f"{request.id}:samples:1:1"]
    assert (await test_app.service.invariants.count(test_app.clock()))["holds_parked"] == 1
    (parked,) = await test_app.service.accounting.parked_holds(10)
    assert (parked["user_id"], parked["amount"]) == ("user", 25)
    await test_app.generations.decide_hold(parked["key"], charged=True, by="operator")
    assert (await test_app.look(request)).state is State.PENDING
    assert (await test_app.look(request)).holds[0].state is HoldState.HELD
    await test_app.service.account_flags.clear(
        "user", by="operator", note="was charged", now=test_app.clock()
    )
    await test_app.deliver(await test_app.next_job())
    await test_app.check()
    assert (await fake_billing.control())["calls"]["deduct"] == 1
    assert await fake_billing.balance("user") == 475


async def test_billing_late_response_charges_once_and_continues(
    fake_billing: FakeBilling, make_test_app
) -> None:
    test_app: ServiceUnderTest = make_test_app(fake_billing.credits, hold_timeout=0.2)
    await fake_billing.control(faults=["slow"])
    request = await test_app.submitted()
    assert request.state is State.VALIDATING_CREDITS
    test_app.clock.advance(minutes=1)
    await test_app.sweep()
    await test_app.sweep()
    for _ in range(100):
        if (await test_app.look(request)).state is State.PENDING:
            break
        await test_app.sweep()
    assert (await test_app.look(request)).state is State.PENDING
    await test_app.deliver(await test_app.next_job())
    await test_app.check()
    assert await fake_billing.balance("user") == 475


async def test_decide_hold_unknown_key_is_not_found_and_settled_is_unchanged(
    test_app: ServiceUnderTest,
) -> None:
    with pytest.raises(errors.NotFoundError):
        await test_app.generations.decide_hold("nothing", charged=True, by="operator")
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    await test_app.generations.decide_hold(request.holds[0].key, charged=False, by="operator")
    assert (await test_app.look(request)).holds[0].state is HoldState.HELD
    await test_app.cancel(request)


# The invariants


async def test_invariants_of_each_minute_are_shown_as_metrics(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    request = await test_app.with_samples()
    await test_app.drain()
    await test_app.housekeep()
    await test_app.service.health.refresh_gauges()
    name, labels = "ai_generation_invariant_violations", {"invariant": "balances_off_ledger"}
    assert REGISTRY.get_sample_value(name, labels) == 0
    await test_app.database.execute("UPDATE credit_accounts SET balance = balance + 1")
    test_app.clock.advance(minutes=2)
    await test_app.housekeep()
    await test_app.service.health.refresh_gauges()
    assert REGISTRY.get_sample_value(name, labels) == 1
    await test_app.database.execute("UPDATE credit_accounts SET balance = balance - 1")
    await test_app.cancel(request)


async def test_invariants_of_long_ago_are_counted_once_a_day(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 500, "payg")
    for _ in range(3):
        await test_app.with_samples()
        test_app.clock.advance(hours=20)
    await test_app.drain()
    await test_app.database.execute(
        """UPDATE credit_accounts SET created_at = now() - interval '90 d', balance = balance + 1"""
    )
    await test_app.database.execute(
        """ALTER TABLE credit_entries DISABLE TRIGGER ALL;
           UPDATE credit_entries SET at = at - interval '80 d';
           ALTER TABLE credit_entries ENABLE TRIGGER ALL"""
    )
    now = test_app.clock()
    recent = await test_app.service.invariants.count(now, now - timedelta(hours=2))
    assert recent["balances_off_ledger"] == 0
    assert (await test_app.service.invariants.count(now))["balances_off_ledger"] == 1
    await test_app.housekeep()
    assert (await test_app.service.invariants.last())["balances_off_ledger"] == 1
    await test_app.database.execute("UPDATE credit_accounts SET balance = balance - 1")
