"""What time does: every deadline ends in a true state, reminders come once, housekeeping is safe."""

import asyncio
from datetime import timedelta

from creativeflow.services.aigeneration.domain.lifecycle import State
from world import World


async def test_a_job_that_waits_too_long_for_its_turn_fails_and_costs_nothing(world: World) -> None:
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    world.clock.advance(hours=1, seconds=1)
    await world.sweep()
    failed = await world.look(request)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure["code"] == "dispatch_timeout"
    await world.drain()
    assert await world.balance() == 25


async def test_a_silent_worker_is_given_up_and_the_job_tried_again_until_no_attempt_is_left(world: World) -> None:
    await world.grant("user", 25, "payg")
    request = await world.submitted()
    for attempt in (1, 2, 3):
        job = await world.next_job()
        assert job.attempt == attempt
        world.clock.advance(minutes=5, seconds=1)
        await world.sweep()
        world.clock.advance(minutes=1)
    failed = await world.look(request)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure["code"] == "model_timeout"
    await world.drain()
    assert await world.balance() == 25


async def test_a_silent_final_is_given_up_after_its_own_deadline(world: World) -> None:
    await world.select(await world.with_samples())
    job = await world.next_job()
    world.clock.advance(minutes=9)
    await world.sweep()
    assert (await world.look(job)).state is State.PROCESSING_FINAL
    world.clock.advance(minutes=2)
    await world.sweep()
    again = await world.look(job)
    assert (again.state, again.attempt) == (State.PENDING, 2)


async def test_a_user_who_does_not_choose_is_reminded_once_and_then_it_expires(world: World) -> None:
    await world.grant("user", 25, "payg")
    request = await world.with_samples()
    world.clock.advance(days=27, minutes=1)
    await world.sweep()
    await world.sweep()
    await world.drain()
    assert world.notifier.types().count("generation_expiring") == 1
    world.clock.advance(days=3)
    await world.sweep()
    assert (await world.look(request)).state is State.EXPIRED
    await world.drain()
    assert world.notifier.types()[-1] == "generation_expired"
    assert await world.balance() == 0


async def test_sweepers_in_any_number_let_each_thing_happen_once(make_world) -> None:
    worlds = [make_world() for _ in range(3)]
    requests = [await worlds[0].submitted(f"user{n}") for n in range(20)]
    worlds[0].clock.advance(hours=2)
    await asyncio.gather(*(world.sweep() for world in worlds))
    for request in requests:
        assert (await worlds[0].events(request)).count("deadline_passed") == 1
    await worlds[0].check()


async def test_old_idempotency_keys_are_forgotten_and_younger_ones_kept(world: World) -> None:
    from creativeflow.services.aigeneration.domain.change import KeyClaim  # noqa: PLC0415

    await world.submit(claim=KeyClaim(principal="p", key="old", fingerprint="f"))
    world.clock.advance(hours=95)
    await world.submit("b", claim=KeyClaim(principal="p", key="young", fingerprint="f"))
    world.clock.advance(hours=2)
    await world.sweep()
    assert await world.service.store.answer("p", "old") is None
    assert await world.service.store.answer("p", "young") is not None
    world.clock.advance(hours=2)
    await world.sweep()


async def test_the_timeline_is_partitioned_by_month(world: World) -> None:
    await world.service.store.prepare_months(world.clock())
    await world.service.store.prepare_months(world.clock() + timedelta(days=40))
    await world.submitted()
    partitions = await world.database.fetch("SELECT DISTINCT tableoid::regclass::text AS name FROM generation_events")
    assert [row["name"] for row in partitions] == [f"generation_events_{world.clock():%Y_%m}"]
