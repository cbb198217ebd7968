"""Deadlines, reminders and the deletion of old data."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.ports import PublicationOutcome, Reservation
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.requests import MONTHS_AHEAD
from tests.support.app import ServiceUnderTest


async def test_dispatch_deadline_passed_fails_at_no_cost(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    test_app.clock.advance(hours=1, seconds=1)
    await test_app.sweep()
    failed = await test_app.look(request)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure["code"] == "dispatch_timeout"
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_samples_deadline_passed_retries_until_no_attempt_is_left(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    for attempt in (1, 2, 3):
        job = await test_app.next_job()
        assert job.attempt == attempt
        await test_app.jobs.work_started(job.id, job.job_id)
        test_app.clock.advance(minutes=5, seconds=1)
        await test_app.sweep()
        test_app.clock.advance(minutes=1)
    failed = await test_app.look(request)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure["code"] == "model_timeout"
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_final_deadline_passed_fails_the_attempt(test_app: ServiceUnderTest) -> None:
    await test_app.select(await test_app.with_samples())
    job = await test_app.next_job()
    await test_app.jobs.work_started(job.id, job.job_id)
    test_app.clock.advance(minutes=9)
    await test_app.sweep()
    assert (await test_app.look(job)).state is State.PROCESSING_FINAL
    test_app.clock.advance(minutes=2)
    await test_app.sweep()
    again = await test_app.look(job)
    assert (again.state, again.attempt) == (State.PENDING, 2)


async def test_jobs_survive_workers_that_are_away_for_less_than_the_dispatch_deadline(
    test_app: ServiceUnderTest,
) -> None:
    requests = [await test_app.submitted(f"user{n}") for n in range(20)]
    await test_app.dispatch()
    for _ in range(26):
        test_app.clock.advance(minutes=1)
        await test_app.sweep()
        await test_app.dispatch()
    current = {(await test_app.look(request)).job_id for request in requests}
    delivered = 0
    while test_app.engine.jobs:
        job = test_app.engine.jobs.popleft()
        if job.job_id in current:
            await test_app.deliver(job)
            delivered += 1
        else:
            with pytest.raises(errors.StaleResultError):
                await test_app.jobs.work_started(job.id, job.job_id)
    assert delivered == 20
    for request in requests:
        shown = await test_app.look(request)
        assert (shown.state, shown.attempt) == (State.AWAITING_SELECTION, 1)


async def test_job_that_no_worker_ever_takes_fails_at_the_dispatch_deadline(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    for _ in range(64):
        await test_app.dispatch()
        test_app.clock.advance(minutes=1)
        await test_app.sweep()
    failed = await test_app.look(request)
    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.failure is not None
    assert failed.failure["code"] == "dispatch_timeout"
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_refusing_broker_is_tried_ever_less_often(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    for _ in range(600):
        test_app.engine.next_outcomes.append(PublicationOutcome.REFUSED)
        await test_app.dispatch()
        test_app.clock.advance(seconds=1)
    tries = await test_app.database.fetchval(
        "SELECT count(*) FROM generation_events WHERE request_id = $1 AND event = 'job_returned'",
        request.id,
    )
    assert 5 < tries < 30
    returned = [e for e in await test_app.timeline(request) if e["event"] == "job_returned"]
    assert [entry["data"]["count"] for entry in returned] == [tries]


async def test_end_of_a_long_timeline_is_shown(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    await test_app.database.execute(
        """INSERT INTO generation_events (request_id, event, at)
           SELECT $1, 'message_' || n % 7, $2 FROM generate_series(1, 1500) n""",
        request.id,
        test_app.clock(),
    )
    await test_app.cancel(request)
    shown = await test_app.events(request)
    assert len(shown) == 1000
    assert shown[-1] == "cancel_requested"


async def test_selection_deadline_reminds_once_then_expires(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.with_samples()
    test_app.clock.advance(days=27, minutes=1)
    await test_app.sweep()
    await test_app.sweep()
    await test_app.drain()
    assert test_app.notifier.types().count("generation_expiring") == 1
    test_app.clock.advance(days=3)
    await test_app.sweep()
    assert (await test_app.look(request)).state is State.EXPIRED
    await test_app.drain()
    assert test_app.notifier.types()[-1] == "generation_expired"
    assert await test_app.balance() == 0


async def test_sweeper_several_processes_apply_each_event_once(make_test_app) -> None:
    test_apps = [make_test_app() for _ in range(3)]
    requests = [await test_apps[0].submitted(f"user{n}") for n in range(20)]
    test_apps[0].clock.advance(hours=2)
    await asyncio.gather(*(test_app.sweep() for test_app in test_apps))
    for request in requests:
        assert (await test_apps[0].events(request)).count("deadline_passed") == 1
    await test_apps[0].check()


async def test_sweeper_deletes_only_old_idempotency_keys(test_app: ServiceUnderTest) -> None:
    from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim  # noqa: PLC0415

    await test_app.submit(claim=IdempotencyClaim(principal="p", key="old", fingerprint="f"))
    test_app.clock.advance(hours=95)
    await test_app.submit("b", claim=IdempotencyClaim(principal="p", key="young", fingerprint="f"))
    test_app.clock.advance(hours=2)
    await test_app.sweep()
    await test_app.housekeep()
    assert await test_app.service.store.answer("p", "old") is None
    assert await test_app.service.store.answer("p", "young") is not None
    test_app.clock.advance(hours=2)
    await test_app.housekeep()


async def test_timeline_is_partitioned_by_month(test_app: ServiceUnderTest) -> None:
    await test_app.service.store.prepare_months(test_app.clock())
    await test_app.service.store.prepare_months(test_app.clock() + timedelta(days=40))
    await test_app.submitted()
    partitions = await test_app.database.fetch(
        "SELECT DISTINCT tableoid::regclass::text AS name FROM generation_events"
    )
    assert [row["name"] for row in partitions] == [f"generation_events_{test_app.clock():%Y_%m}"]


async def test_timeline_partition_creation_during_a_backup_delays_no_write(
    test_app: ServiceUnderTest, database_url: str
) -> None:
    """A backup locks every table for hours; creating a partition must neither wait long nor delay
    others.
    """
    await test_app.grant("user", plan="pro")
    backup = await asyncpg.connect(database_url)
    try:
        await backup.execute("BEGIN; LOCK TABLE generation_events IN ACCESS SHARE MODE")
        test_app.clock.advance(days=400)
        test_app.service.entitlements.forget("user")
        async with asyncio.timeout(10):
            ready, *_ = await asyncio.gather(
                test_app.service.store.prepare_months(test_app.clock()),
                *(test_app.submit("user") for _ in range(3)),
            )
        assert ready < MONTHS_AHEAD
    finally:
        await backup.execute("ROLLBACK")
        await backup.close()
    assert await test_app.service.store.prepare_months(test_app.clock()) == MONTHS_AHEAD + 1


async def test_service_under_a_role_that_may_not_create_works(
    settings: Settings, database_url: str, admin_url: str
) -> None:
    role = f"aigen_plain_{uuid4().hex[:8]}"
    admin, owner = await asyncpg.connect(admin_url), await asyncpg.connect(database_url)
    try:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'plain'")
        await owner.execute(
            f"""REVOKE CREATE ON SCHEMA public FROM PUBLIC;
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
                GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"""
        )
        address = urlsplit(database_url)
        host = address.netloc.rpartition("@")[2]
        plain = ServiceUnderTest(
            urlunsplit(address._replace(netloc=f"{role}:plain@{host}")), settings
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await plain.database.execute("CREATE TABLE mine ()")
        plain.clock.advance(days=800)
        assert await plain.service.store.prepare_months(plain.clock()) == MONTHS_AHEAD + 1
        await plain.grant("user", 500, plan="payg")
        request = await plain.with_samples("user")
        await plain.select(request)
        await plain.deliver(await plain.next_job())
        await plain.check()
        await plain.close()
    finally:
        await owner.execute(f"DROP OWNED BY {role}")
        await owner.close()
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


async def test_sweep_with_one_failing_hold_settles_the_others(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 1000, plan="payg")
    test_app.credits.faults.extend(["after"] * 3)
    requests = [await test_app.submitted() for _ in range(3)]
    poison, hold = requests[0].holds[0].key, test_app.credits.hold

    async def broken(asked: Reservation) -> None:
        if asked.key == poison:
            raise RuntimeError("nobody expected this")
        await hold(asked)

    test_app.credits.hold = broken  # type: ignore[method-assign]
    test_app.clock.advance(seconds=30)
    await test_app.sweep()
    assert [(await test_app.look(request)).state for request in requests] == [
        State.VALIDATING_CREDITS,
        State.PENDING,
        State.PENDING,
    ]
    test_app.credits.hold = hold  # type: ignore[method-assign]
    await test_app.sweep()
    await test_app.check(drained=False)


async def test_sweep_asks_a_hanging_credit_service_for_many_holds_at_once(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(hold_timeout=0.5)
    await test_app.grant("user", 1000, plan="payg")
    test_app.credits.faults.extend(["after"] * 12)
    for _ in range(12):
        await test_app.submitted()
    hold, asked, all_asked = test_app.credits.hold, 0, asyncio.Event()

    async def hangs(_asked: Reservation) -> None:
        nonlocal asked
        asked += 1
        if asked == 12:
            all_asked.set()
        await all_asked.wait()

    test_app.credits.hold = hangs  # type: ignore[method-assign]
    test_app.clock.advance(seconds=30)
    await test_app.sweep()
    assert asked == 12
    assert all_asked.is_set()
    test_app.credits.hold = hold  # type: ignore[method-assign]
    await test_app.check(drained=False)
