"""Messages are paid at least once and in order, put off when somebody is away, parked when a person
must look.
"""

import asyncio

from creativeflow.services.aigeneration.storage.outbox import backoff
from tests.support.app import ServiceUnderTest


async def test_what_is_owed_is_paid_when_the_receiver_comes_back(world: ServiceUnderTest) -> None:
    await world.with_samples()
    world.notifier.faults.extend(["away", "away", "away_after"])
    await world.drain()
    assert world.notifier.types() == ["samples_ready", "samples_ready"]
    assert len({sent["event_id"] for sent in world.notifier.sent}) == 1


async def test_notifications_of_one_request_keep_their_order(world: ServiceUnderTest) -> None:
    request = await world.with_samples()
    world.notifier.faults.append("away")
    await world.service.relay.step()
    await world.select(request)
    await world.deliver(await world.next_job())
    await world.service.relay.step()
    assert world.notifier.types() == []
    await world.drain()
    assert world.notifier.types() == ["samples_ready", "final_asset_ready"]


async def test_a_refused_notification_is_parked_and_replayed_by_an_operator(
    world: ServiceUnderTest,
) -> None:
    request = await world.with_samples()
    world.notifier.faults.append("refused")
    await world.drain()
    parked = await world.service.outbox.list_open(parked_only=True, most=10)
    assert [message["parked_reason"] for message in parked] == ["simulated"]
    assert await world.service.outbox.replay(parked[0]["id"], by="op", now=world.clock())
    assert not await world.service.outbox.replay(parked[0]["id"], by="op", now=world.clock())
    await world.drain()
    assert world.notifier.types() == ["samples_ready"]
    assert {"message_parked", "message_replayed", "notification_sent"} <= set(
        await world.events(request)
    )


async def test_a_parked_message_can_be_dropped_and_that_stands_in_the_timeline(
    world: ServiceUnderTest,
) -> None:
    request = await world.with_samples()
    world.notifier.faults.append("refused")
    await world.drain()
    parked = await world.service.outbox.list_open(parked_only=True, most=10)
    assert await world.service.outbox.drop(parked[0]["id"], by="op", now=world.clock())
    assert not await world.service.outbox.drop(parked[0]["id"], by="op", now=world.clock())
    assert "message_dropped" in await world.events(request)


async def test_relays_in_any_number_pay_each_message_once(make_world) -> None:
    worlds = [make_world() for _ in range(3)]
    for n in range(30):
        await worlds[0].with_samples(f"user{n}")
    await asyncio.gather(*(world.service.relay.step() for world in worlds))
    await worlds[0].drain()
    sent = [notification["event_id"] for world in worlds for notification in world.notifier.sent]
    assert len(sent) == len(set(sent)) == 30
    await worlds[0].check()


async def test_a_relay_that_dies_with_a_lease_leaves_the_message_to_the_next(
    world: ServiceUnderTest,
) -> None:
    from datetime import timedelta  # noqa: PLC0415

    await world.with_samples()
    lost = await world.service.outbox.lease(
        world.service.new_id(),
        most=10,
        now=world.clock(),
        lease_for=timedelta(minutes=1),
        topics=["notification.send"],
    )
    assert len(lost) == 1
    assert await world.service.relay.step() == 0
    world.clock.advance(minutes=2)
    assert await world.service.relay.step() == 1
    from creativeflow.services.aigeneration.storage.outbox import Parked  # noqa: PLC0415

    await world.service.outbox.settle([(lost[0], Parked("too late"))], now=world.clock())
    assert await world.service.outbox.list_open(parked_only=False, most=10) == []


def test_the_pauses_grow_and_are_bounded() -> None:
    pauses = [backoff(attempt).total_seconds() for attempt in range(1, 20)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert max(pauses) == 300
