"""Group commit: a refused item is a result of the statement and affects no other caller."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from creativeflow.services.aigeneration.application.idempotency import ActionResult, Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim, StateChange
from creativeflow.services.aigeneration.storage.batch_writer import WriteResult
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit
from tests.support.app import ServiceUnderTest


def claim(key: str) -> IdempotencyClaim:
    return IdempotencyClaim(principal="service", key=key, fingerprint=f"body of {key}")


class HeldWriter:
    """Blocks a batcher's writer until all expected items wait; records the batch sizes."""

    def __init__(self, batcher: "GroupCommit[StateChange, WriteResult]") -> None:
        self.batches: list[int] = []
        self.opened = asyncio.Event()
        self._batcher = batcher
        self._write = batcher._write  # noqa: SLF001 - the moment of a batch is not visible from outside
        batcher._write = self.write  # noqa: SLF001

    async def write(self, changes: Sequence[StateChange]) -> Sequence[WriteResult]:
        await self.opened.wait()
        self.batches.append(len(changes))
        return await self._write(changes)

    async def waiting(self, count: int) -> None:
        """Wait until this many changes are queued behind the writer."""
        while sum(map(len, self._batcher._waiting.values())) < count:  # noqa: SLF001
            await asyncio.sleep(0)


async def submit_in_one_batch(
    test_app: ServiceUnderTest, *calls: Any
) -> list[ActionResult | BaseException]:
    """Return the results of calls whose changes are written by one statement."""
    await test_app.grant("filler", plan="enterprise")
    held_writer = HeldWriter(test_app.service.writer._group)  # noqa: SLF001
    writer = asyncio.create_task(test_app.submit("filler"))
    while not test_app.service.writer._group._writing or test_app.service.writer._group._waiting:  # noqa: SLF001
        await asyncio.sleep(0)
    tasks = [asyncio.create_task(call) for call in calls]
    await held_writer.waiting(len(tasks))
    held_writer.opened.set()
    await writer
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert max(held_writer.batches) == len(tasks)
    return found


def statuses(found: Sequence[ActionResult | BaseException]) -> list[int | type]:
    return [
        reply.answer.status if isinstance(reply, ActionResult) else type(reply) for reply in found
    ]


@pytest.mark.parametrize("ledger_here", [True, False])
async def test_create_beside_a_used_key_and_a_used_up_allowance_is_accepted_once(
    make_test_app: Callable[..., ServiceUnderTest], ledger_here: bool
) -> None:
    test_app = make_test_app(ledger_here=ledger_here, free_generations=2)
    await test_app.grant("payer", 10_000, plan="payg")
    await test_app.grant("pro", plan="pro")
    await test_app.submit("free", claim=claim("first"))
    found = await submit_in_one_batch(
        test_app,
        test_app.submit("payer", claim=claim("payer")),
        test_app.submit("pro"),
        test_app.submit("free", claim=claim("first")),
        test_app.submit("free", claim=claim("second")),
        test_app.submit("free", claim=claim("third")),
    )
    assert statuses(found)[:3] == [202, 202, 202]
    assert sorted(map(str, statuses(found)[3:])) == ["202", str(errors.FreeQuotaExhaustedError)]
    stored = await test_app.database.fetch(
        "SELECT user_id, count(*) FROM generation_requests WHERE user_id <> 'filler' GROUP BY 1"
        " ORDER BY 1"
    )
    assert [tuple(row) for row in stored] == [("free", 2), ("payer", 1), ("pro", 1)]
    assert await test_app.balance("payer") == 10_000 - 25
    await test_app.check()


async def test_group_commit_used_keys_do_not_split_a_batch(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(ledger_here=True)
    await test_app.grant("pro", plan="pro")
    await test_app.submit("pro", claim=claim("used"))
    statements = 0
    fetch = test_app.service.write_connection.fetch

    async def counted(statement: str, *arguments: Any) -> Any:
        nonlocal statements
        statements += "INSERT INTO generation_requests" in statement
        return await fetch(statement, *arguments)

    test_app.service.write_connection.fetch = counted  # type: ignore[method-assign]
    calls = [test_app.submit("pro", claim=claim(f"key {n}")) for n in range(20)]
    found = await submit_in_one_batch(test_app, *calls, test_app.submit("pro", claim=claim("used")))
    assert statuses(found) == [202] * 21
    assert sum(reply.stored is not None for reply in found if isinstance(reply, ActionResult)) == 1
    assert statements == 2  # one of the writer and one for all the others
    await test_app.check()


async def test_transition_with_a_key_of_another_request_is_refused(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(ledger_here=True)
    await test_app.grant("user", 10_000, plan="payg")
    await test_app.submit("user", claim=claim("used"))
    request = await test_app.with_samples("user")
    before = await test_app.balance()
    other = IdempotencyClaim(principal="service", key="used", fingerprint="another body")
    with pytest.raises(errors.IdempotencyKeyReusedError):
        await test_app.select(request, caller=Caller(name="service", claim=other))
    assert await test_app.balance() == before
    assert (await test_app.look(request)).selected_sample_id is None
    await test_app.check()


async def test_submit_unexpected_credit_error_stays_accepted(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app()
    await test_app.grant("user", 10_000, plan="payg")
    hold = test_app.credits.hold

    async def broken(asked: Any) -> None:
        raise RuntimeError("nobody expected this")

    test_app.credits.hold = broken  # type: ignore[method-assign]
    reply = await test_app.submit("user", claim=claim("key"))
    again = await test_app.submit("user", claim=claim("key"))
    assert (reply.answer.status, again.answer.status) == (202, 202)
    assert again.stored is not None
    test_app.credits.hold = hold  # type: ignore[method-assign]
    test_app.clock.advance(seconds=30)
    await test_app.sweep()
    assert reply.request is not None
    assert (await test_app.look(reply.request)).state == "PENDING"
    assert await test_app.balance() == 10_000 - 25
    await test_app.check()


async def test_submit_error_after_the_commit_does_not_reach_the_caller(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", plan="pro")
    runner = test_app.service.runner

    def broken(change: StateChange) -> None:
        raise RuntimeError("a counter broke")

    runner._on_committed = broken  # noqa: SLF001
    assert (await test_app.submit("user")).answer.status == 202


async def test_batcher_with_more_busy_keys_than_a_batch_holds_serves_every_key_in_turn() -> None:
    written: list[str] = []

    async def write(items: Sequence[str]) -> Sequence[None]:
        written.extend(items)
        await asyncio.sleep(0)
        return [None] * len(items)

    batcher: GroupCommit[str, None] = GroupCommit(
        write, key=lambda item: item[0], max_size=2, max_concurrent=1
    )
    busy = [f"{key}{n}" for n in range(50) for key in "ab"]
    await asyncio.gather(*map(batcher.submit, [*busy, "c"]))
    assert written.index("c") < 6
    assert [item for item in written if item[0] == "a"] == [f"a{n}" for n in range(50)]


async def _die_while_placing(test_app: ServiceUnderTest, key: str) -> None:
    """Create a request under a key, in a process that dies before its hold is placed."""

    class _ProcessDiedError(BaseException):
        """The process has died."""

    async def die(_: object) -> ActionResult:
        raise _ProcessDiedError

    place = test_app.generations._holds.place_for_caller  # noqa: SLF001
    test_app.generations._holds.place_for_caller = die  # type: ignore[method-assign]  # noqa: SLF001
    with pytest.raises(_ProcessDiedError):
        await test_app.submit("user", claim=claim(key))
    test_app.generations._holds.place_for_caller = place  # type: ignore[method-assign]  # noqa: SLF001


@pytest.mark.parametrize("ended", ["cancelled", "timed_out", "held_later"])
async def test_key_of_a_create_whose_process_died_gets_the_creates_own_response(
    make_test_app: Callable[..., ServiceUnderTest], ended: str
) -> None:
    test_app = make_test_app()
    await test_app.grant("user", 1_000, plan="payg")
    await _die_while_placing(test_app, "once")
    with pytest.raises(errors.IdempotencyKeyInFlightError):
        await test_app.submit("user", claim=claim("once"))
    row = (await test_app.database.fetch("SELECT id FROM generation_requests"))[0]
    request = await test_app.service.store.load(row["id"])
    assert request is not None
    match ended:
        case "cancelled":
            await test_app.cancel(request)
        case "timed_out":
            test_app.credits.faults.extend(["before"] * 50)
            test_app.clock.advance(hours=2)
            await test_app.sweep()
            test_app.credits.faults.clear()
        case _:
            test_app.clock.advance(minutes=2)
            await test_app.sweep()
    found = await test_app.submit("user", claim=claim("once"))
    assert found.stored is not None
    assert found.stored.status == 202
    assert found.stored.request_id == request.id
    assert found.stored.body is not None
    assert "outcome" not in found.stored.body
    assert await test_app.database.fetchval("SELECT count(*) FROM generation_requests") == 1
    again = await test_app.submit("user", claim=claim("once"))
    assert again.stored == found.stored
    test_app.clock.advance(minutes=10)
    await test_app.sweep()
    await test_app.check(drained=ended != "held_later")
