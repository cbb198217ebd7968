"""The relay delivers messages at least once and in order, retries while a receiver is unavailable,
and parks final failures.
"""

import asyncio

from creativeflow.services.aigeneration.storage.outbox import backoff
from tests.support.app import ServiceUnderTest


async def test_relay_delivers_when_the_receiver_recovers(test_app: ServiceUnderTest) -> None:
    await test_app.with_samples()
    test_app.notifier.faults.extend(["away", "away", "away_after"])
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready", "samples_ready"]
    assert len({sent["event_id"] for sent in test_app.notifier.sent}) == 1


async def test_relay_keeps_the_order_of_a_request(test_app: ServiceUnderTest) -> None:
    request = await test_app.with_samples()
    test_app.notifier.faults.append("away")
    await test_app.service.relays.step()
    await test_app.select(request)
    await test_app.deliver(await test_app.next_job())
    await test_app.service.relays.step()
    assert test_app.notifier.types() == []
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready", "final_asset_ready"]


async def test_relay_refused_notification_is_parked_and_can_be_replayed(
    test_app: ServiceUnderTest,
) -> None:
    request = await test_app.with_samples()
    test_app.notifier.faults.append("refused")
    await test_app.drain()
    parked = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert [message["parked_reason"] for message in parked] == ["simulated"]
    assert await test_app.service.outbox.replay(parked[0]["id"], by="op", now=test_app.clock())
    assert not await test_app.service.outbox.replay(parked[0]["id"], by="op", now=test_app.clock())
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready"]
    assert {"message_parked", "message_replayed", "notification_sent"} <= set(
        await test_app.events(request)
    )


async def test_outbox_parked_message_dropped_is_recorded_in_the_timeline(
    test_app: ServiceUnderTest,
) -> None:
    request = await test_app.with_samples()
    test_app.notifier.faults.append("refused")
    await test_app.drain()
    parked = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert await test_app.service.outbox.drop(parked[0]["id"], by="op", now=test_app.clock())
    assert not await test_app.service.outbox.drop(parked[0]["id"], by="op", now=test_app.clock())
    assert "message_dropped" in await test_app.events(request)


async def test_relay_several_processes_deliver_each_message_once(make_test_app) -> None:
    test_apps = [make_test_app() for _ in range(3)]
    for n in range(30):
        await test_apps[0].with_samples(f"user{n}")
    await asyncio.gather(*(test_app.service.relays.step() for test_app in test_apps))
    await test_apps[0].drain()
    sent = [
        notification["event_id"]
        for test_app in test_apps
        for notification in test_app.notifier.sent
    ]
    assert len(sent) == len(set(sent)) == 30
    await test_apps[0].check()


async def test_relay_dying_with_a_lease_leaves_the_message_to_the_next(
    test_app: ServiceUnderTest,
) -> None:
    from datetime import timedelta  # noqa: PLC0415

    await test_app.with_samples()
    lost = await test_app.service.outbox.lease(
        test_app.service.new_id(),
        most=10,
        now=test_app.clock(),
        lease_for=timedelta(minutes=1),
        topics=["notification.send"],
    )
    assert len(lost) == 1
    assert await test_app.service.relays.step() == 0
    test_app.clock.advance(minutes=2)
    assert await test_app.service.relays.step() == 1
    from creativeflow.services.aigeneration.storage.outbox import Parked  # noqa: PLC0415

    await test_app.service.outbox.settle(lost[0], Parked("too late"), now=test_app.clock())
    assert await test_app.service.outbox.list_open(parked_only=False, most=10) == []


def test_relay_retry_delays_grow_up_to_a_limit() -> None:
    pauses = [backoff(attempt).total_seconds() for attempt in range(1, 20)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert max(pauses) == 300


async def test_own_messages_are_delivered_right_after_their_commit(
    test_app: ServiceUnderTest,
) -> None:
    test_app.start_own()
    request = await test_app.with_samples()
    await test_app.settle_own()
    assert test_app.notifier.types() == ["samples_ready"]
    assert await test_app.service.relays.step() == 0
    assert "notification_sent" in await test_app.events(request)


async def test_own_message_that_fails_is_delivered_by_a_step_later(
    test_app: ServiceUnderTest,
) -> None:
    test_app.start_own()
    test_app.notifier.faults.append("away")
    await test_app.with_samples()
    await test_app.settle_own()
    assert test_app.notifier.types() == []
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready"]


async def test_own_message_waits_for_an_earlier_one_of_its_request(
    test_app: ServiceUnderTest,
) -> None:
    test_app.start_own()
    test_app.notifier.faults.append("away")
    request = await test_app.with_samples()
    await test_app.settle_own()
    await test_app.select(request)
    await test_app.service.dispatcher.finish_own()
    await test_app.deliver(test_app.engine.jobs.popleft())
    await test_app.settle_own()
    assert test_app.notifier.types() == []
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready", "final_asset_ready"]


async def test_own_message_of_a_dead_process_is_delivered_by_a_relay(make_test_app) -> None:
    dying, other = make_test_app(), make_test_app()
    dying.start_own()
    lost: list[object] = []
    dying.service.writer.deliver_own(["notification.send"], lost.append)
    await dying.with_samples()
    assert await other.service.relays.step() == 0
    other.clock.advance(seconds=30)
    assert await other.service.relays.step() == 1
    assert (dying.notifier.types(), other.notifier.types()) == ([], ["samples_ready"])
    await dying.settle_own()
    await other.check()


async def test_own_message_taken_over_by_a_relay_is_deleted_once(make_test_app) -> None:
    slow, other = make_test_app(), make_test_app()
    slow.start_own()
    kept = []
    slow.service.writer.deliver_own(["notification.send"], kept.append)
    request = await slow.with_samples()
    other.clock.advance(seconds=30)
    assert await other.service.relays.step() == 1
    slow.service.relays.by_destination["notifications"].deliver_own(kept[0])
    await slow.service.relays.finish()
    assert (await other.events(request)).count("notification_sent") == 1
    await slow.settle_own()
    await other.check()


async def test_hanging_notifier_delays_neither_releases_nor_events(make_test_app) -> None:
    test_app = make_test_app()
    hanging = asyncio.Event()

    async def hang(_: object) -> None:
        await hanging.wait()

    test_app.notifier.send = hang
    relays = test_app.service.relays.by_destination
    relays["notifications"]._handlers["notification.send"] = hang  # noqa: SLF001
    await test_app.grant("user", 100, "payg")
    for _ in range(4):
        request = await test_app.submitted()
        await test_app.next_job()
        await test_app.cancel(request)
    for relay in relays.values():
        await relay.step()
    await asyncio.wait_for(relays["credits"].finish(), 5)
    assert await test_app.balance() == 100
    hanging.set()
    await test_app.drain()
    await test_app.check()


async def test_slow_message_leaves_room_for_others_of_its_destination(make_test_app) -> None:
    test_app = make_test_app()
    hanging = asyncio.Event()
    sent: list[object] = []

    async def hang_once(notification: object) -> None:
        sent.append(notification)
        if len(sent) == 1:
            await hanging.wait()

    relay = test_app.service.relays.by_destination["notifications"]
    relay._handlers["notification.send"] = hang_once  # noqa: SLF001
    await test_app.with_samples("first")
    assert await relay.step() == 1
    await test_app.with_samples("second")
    assert await relay.step() == 1
    while len(sent) < 2:
        await asyncio.sleep(0)
    hanging.set()
    await relay.finish()
    await test_app.check()
