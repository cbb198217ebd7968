"""Statements on several requests lock them in one order, so that they cannot deadlock."""

from collections.abc import Callable

import pytest

from creativeflow.services.aigeneration.domain.events import CancelRequested, ProgressReported
from creativeflow.services.aigeneration.domain.lifecycle import Event
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import StateChange
from tests.support.app import ServiceUnderTest
from tests.support.locks import both_held_up, deadlocks

TOGETHER = 9


@pytest.mark.parametrize("kind", [Event.CANCEL_REQUESTED, Event.PROGRESS_REPORTED])
async def test_concurrent_batches_on_the_same_requests_do_not_deadlock(
    make_test_app: Callable[..., ServiceUnderTest], database_url: str, kind: Event
) -> None:
    test_app, other_app = make_test_app(), make_test_app()
    runner = test_app.service.runner
    for number in range(TOGETHER):  # the order of users differs from that of requests
        await test_app.submit(f"user-{TOGETHER - number}")
    await test_app.dispatch()
    requests = [await test_app.look(test_app.engine.jobs.popleft()) for _ in range(TOGETHER)]

    def progress(request: GenerationRequest) -> StateChange:
        data = {"percent": 50}
        return runner.apply(request, ProgressReported(progress=data, samples=(), data=data))

    def other(request: GenerationRequest) -> StateChange:
        if kind is Event.PROGRESS_REPORTED:
            return progress(request)
        return runner.apply(request, CancelRequested(data={"by": "test"}))

    first, second = await both_held_up(
        test_app,
        database_url,
        requests[TOGETHER // 2],
        runner.store.write_moves([progress(request) for request in requests]),
        other_app.service.store.write_moves([other(request) for request in reversed(requests)]),
    )
    assert [one != two for one, two in zip(first, reversed(second), strict=True)] == [
        True
    ] * TOGETHER
    assert await deadlocks(test_app) == 0


async def test_concurrent_batches_of_both_kinds_of_change_do_not_deadlock(
    make_test_app: Callable[..., ServiceUnderTest], database_url: str
) -> None:
    test_app, other_app = make_test_app(), make_test_app()
    runner = test_app.service.runner
    for number in range(TOGETHER):
        await test_app.submit(f"user-{number}")
    await test_app.dispatch()
    requests = [await test_app.look(test_app.engine.jobs.popleft()) for _ in range(TOGETHER)]

    def mixed(cancelled: int) -> list[StateChange]:
        """Cancel every second request, and report progress of the others."""
        return [
            runner.apply(
                request,
                CancelRequested(data={"by": "test"})
                if number % 2 == cancelled
                else ProgressReported(progress={"percent": 5}, samples=(), data={}),
            )
            for number, request in enumerate(requests)
        ]

    first, second = await both_held_up(
        test_app,
        database_url,
        requests[TOGETHER // 2],
        runner.store.write_moves(mixed(0)),
        other_app.service.store.write_moves(mixed(1)),
    )
    assert [one != two for one, two in zip(first, second, strict=True)] == [True] * TOGETHER
    assert await deadlocks(test_app) == 0
