"""Statements on several requests lock them in one order, so that they cannot deadlock."""

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
    test_app: ServiceUnderTest, database_url: str, kind: Event
) -> None:
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
        runner.store.write_moves([other(request) for request in reversed(requests)]),
    )
    assert [one != two for one, two in zip(first, reversed(second), strict=True)] == [
        True
    ] * TOGETHER
    assert await deadlocks(test_app) == 0
