"""Local credits are taken by the statement that begins the work and captured by the one that
delivers it; otherwise they take the path of external credits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.events import CancelRequested, SamplesDelivered
from creativeflow.services.aigeneration.domain.lifecycle import Event, State
from creativeflow.services.aigeneration.domain.ordering import as_held
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim, StateChange
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.requests import WriteResult
from tests.support.app import ServiceUnderTest, four_samples
from tests.support.builders import an_event
from tests.support.locks import both_held_up, deadlocks

OWED = "SELECT topic FROM outbox ORDER BY id"


@pytest.fixture
def test_app(make_test_app: Callable[..., ServiceUnderTest]) -> ServiceUnderTest:
    return make_test_app(ledger_here=True)


@pytest.fixture(autouse=True)
async def _exact(test_app: ServiceUnderTest):
    yield
    await test_app.check()


async def chosen(test_app: ServiceUnderTest, *requests: GenerationRequest) -> list[StateChange]:
    """Return selections of the first sample that are not written yet."""
    runner = test_app.service.runner
    write, kept = runner.store.write, []

    async def keep(change: StateChange) -> WriteResult:
        kept.append(change)
        return WriteResult.YES

    runner.store.write = keep
    try:
        for request in requests:
            await test_app.select(request)
    finally:
        runner.store.write = write
        runner.cache.clear()
    assert all(change.taking for change in kept)
    return kept


async def owed(test_app: ServiceUnderTest) -> list[str]:
    return [row["topic"] for row in await test_app.database.fetch(OWED)]


async def test_submit_takes_its_credits_in_the_first_write(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 100, "payg")
    request = await test_app.submitted()
    assert (request.state, request.version) == (State.PENDING, 1)
    assert [hold.state for hold in (await test_app.look(request)).holds] == [HoldState.HELD]
    assert await test_app.balance() == 75
    assert await test_app.events(request) == ["submitted", "credits_held"]
    assert (await test_app.timeline(request))[1]["data"] == {
        "hold": f"{request.id}:samples:1:1",
        "credits": "0.25",
    }


async def test_delivery_captures_in_the_same_write_without_a_message(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 125, "payg")
    request = await test_app.with_samples()
    assert (await test_app.events(request))[-2:] == ["samples_delivered", "credits_captured"]
    assert not any(topic.startswith("credits.") for topic in await owed(test_app))
    await test_app.select(request)
    assert await test_app.balance() == 0
    done = await test_app.deliver(await test_app.next_job())
    assert (await test_app.events(request))[-2:] == ["final_delivered", "credits_captured"]
    assert {hold.state for hold in done.holds} == {HoldState.CAPTURED}
    assert (
        await test_app.database.fetchval("SELECT count(*) FROM holds WHERE settled_at IS NULL") == 0
    )
    assert (
        await test_app.database.fetchval(
            "SELECT sum(amount) FROM credit_entries WHERE account = 'revenue'"
        )
        == 125
    )


async def test_select_takes_its_credits_in_one_transition(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 125, "payg")
    request = await test_app.with_samples()
    after = (await test_app.select(request)).request
    assert after is not None
    assert (after.state, after.version) == (State.PENDING, request.version + 1)
    told = await test_app.events(request)
    assert told[told.index("credits_captured") + 1 :][-2:] == ["sample_selected", "credits_held"]


async def test_submit_without_credits_is_refused_like_elsewhere(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 24, "payg")
    claim = IdempotencyClaim(principal="user", key="key", fingerprint="same")
    with pytest.raises(errors.InsufficientCreditsError, match=r"0\.25"):
        await test_app.submit(claim=claim)
    assert (await test_app.submit(claim=claim)).answer.status == 402
    assert await test_app.balance() == 24
    await test_app.drain()
    assert test_app.notifier.types() == ["generation_failed"]


async def test_select_refused_succeeds_after_a_top_up(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 124, "payg")
    request = await test_app.with_samples()
    with pytest.raises(errors.InsufficientCreditsError):
        await test_app.select(request)
    assert (await test_app.look(request)).state is State.AWAITING_SELECTION
    await test_app.grant("user", 1)
    await test_app.select(request, 2)
    done = await test_app.deliver(await test_app.next_job())
    assert (done.state, await test_app.balance()) == (State.COMPLETED, 0)


async def test_cancel_releases_the_taken_credits(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    await test_app.cancel(await test_app.submitted())
    assert await owed(test_app) == ["credits.release", "notification.send"]
    await test_app.drain()
    assert await test_app.balance() == 25


async def test_submit_concurrently_starts_as_many_as_credits_allow(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25 * 7, "payg")
    found = await asyncio.gather(*(test_app.submit() for _ in range(30)), return_exceptions=True)
    assert sum(isinstance(one, errors.InsufficientCreditsError) for one in found) == 23
    assert sum(not isinstance(one, Exception) for one in found) == 7
    assert await test_app.balance() == 0


async def test_batch_takes_all_holds_of_one_user_or_none(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 2 * 25 + 150, "payg")
    requests = [await test_app.with_samples(), await test_app.with_samples()]
    changes = await chosen(test_app, *requests)
    assert await test_app.service.store.write_moves(changes) == [False, False]
    assert await test_app.balance() == 150
    await test_app.grant("user", 50)
    assert await test_app.service.store.write_moves(changes) == [True, True]
    assert await test_app.balance() == 0


async def test_select_on_an_outdated_version_takes_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 225, "payg")
    request = await test_app.with_samples()
    [change] = await chosen(test_app, request)
    await test_app.cancel(request)
    assert await test_app.service.store.write(change) is WriteResult.SUPERSEDED
    assert await test_app.balance() == 200


async def test_batch_with_and_without_taken_credits_is_written_together(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 25 + 25 + 100, "payg")
    request, other = await test_app.with_samples(), await test_app.submitted()
    [change] = await chosen(test_app, request)
    job = await test_app.next_job()
    other = await test_app.look(other)
    runner = test_app.service.runner
    delivered = runner.apply(
        other,
        SamplesDelivered(
            samples=tuple(four_samples(job)), sample_failures=(), ai_model_used="standard"
        ),
    )
    assert await test_app.service.store.write_moves([change, delivered]) == [True, True]
    assert await test_app.balance() == 0
    assert (await test_app.look(other)).holds[0].state is HoldState.CAPTURED
    assert (
        await test_app.database.fetchval(
            "SELECT sum(amount) FROM credit_entries WHERE account = 'revenue'"
        )
        == 50
    )


async def test_batches_with_and_without_taken_credits_do_not_deadlock(
    make_test_app: Callable[..., ServiceUnderTest], test_app: ServiceUnderTest, database_url: str
) -> None:
    other_app = make_test_app(ledger_here=True)
    requests = []
    for number in range(3):  # the order of users differs from that of requests
        await test_app.grant(f"user-{9 - number}", 125, "payg")
        requests.append(await test_app.with_samples(f"user-{9 - number}"))
    runner = test_app.service.runner
    first, _, last = await chosen(test_app, *requests)
    ended = [runner.apply(one, CancelRequested(data={"by": "test"})) for one in requests]
    ending, mixed = await both_held_up(
        test_app,
        database_url,
        requests[1],
        runner.store.write_moves(ended[1:]),
        other_app.service.store.write_moves([last, ended[1], first]),
    )
    assert mixed[2] is True
    assert [ending[0] != mixed[1], ending[1] != mixed[0]] == [True, True]
    assert await deadlocks(test_app) == 0


async def test_capture_unknown_to_the_ledger_stays_an_outbox_message(
    test_app: ServiceUnderTest,
) -> None:
    """The hold was placed at another credit service, before the setting was changed."""
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    job = await test_app.next_job()
    await test_app.database.execute("ALTER TABLE credit_entries DISABLE TRIGGER ALL")
    await test_app.database.execute("DELETE FROM credit_entries WHERE operation LIKE 'hold:%'")
    await test_app.database.execute("UPDATE credit_accounts SET balance = 25")
    await test_app.database.execute("ALTER TABLE credit_entries ENABLE TRIGGER ALL")
    await test_app.deliver(job)
    assert (await test_app.look(request)).holds[0].state is HoldState.CAPTURED
    assert "credits.capture" in await owed(test_app)
    await test_app.service.relays.step()
    [message] = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert message["topic"] == "credits.capture"
    await Ledger(test_app.database).hold(
        f"{request.id}:samples:1:1", user_id="user", amount=25, action="sample_generation"
    )
    await test_app.service.outbox.replay(message["id"], by="test", now=test_app.clock())


async def test_hold_known_to_the_ledger_is_not_taken_again(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 225, "payg")
    request = await test_app.with_samples()
    key = f"{request.id}:final:1:1"
    await Ledger(test_app.database).hold(
        key, user_id="user", amount=100, action="standard_generation"
    )
    [change] = await chosen(test_app, request)
    assert await test_app.service.store.write(change) is WriteResult.NOT_TAKEN
    await test_app.select(request)
    assert await test_app.balance() == 100
    await test_app.deliver(await test_app.next_job())


async def test_capture_concurrent_with_the_relay_happens_once(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 25, "payg")
    request = await test_app.submitted()
    job = await test_app.next_job()
    assert (
        await Ledger(test_app.database).resolve(f"{request.id}:samples:1:1", "capture") == "capture"
    )
    await test_app.deliver(job)
    assert "credits.capture" in await owed(test_app)
    await test_app.drain()
    assert (await test_app.events(request)).count("credits_captured") == 1


async def test_submit_by_plan_or_allowance_takes_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.grant("member", 100, "pro")
    for user in ("member", "free"):
        request = await test_app.with_samples(user)
        await test_app.select(request)
        await test_app.deliver(await test_app.next_job())
        assert "credits_held" not in await test_app.events(request)
    assert await test_app.balance("member") == 100


async def test_hold_already_placing_is_not_taken(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 125, "payg")
    request = await test_app.with_samples()
    [change] = await chosen(test_app, request)
    assert change.taking is not None
    placing = replace(change.taking, state=HoldState.PLACING)
    asked = replace(request, holds=(*request.holds, placing))
    selected = an_event(asked, Event.SAMPLE_SELECTED, hold=as_held(placing))
    answered = test_app.service.runner.apply(asked, selected)
    assert answered.taking is None
    assert [entry.event for entry in answered.entries] == ["sample_selected"]
