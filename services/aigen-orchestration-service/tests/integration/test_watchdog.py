"""Stalls are logged once when they begin and once when they end, and appear in the metrics
meanwhile.
"""

from datetime import timedelta

import structlog
from prometheus_client import REGISTRY

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.stalled_workers import StallKind
from creativeflow.services.aigeneration.workers.watchdog import Watchdog
from tests.support.app import ServiceUnderTest


def figure(lane: Stage, kind: StallKind) -> float | None:
    """Return the value of a metric."""
    return REGISTRY.get_sample_value(
        "ai_generation_stalled_jobs", {"lane": lane.value, "kind": kind.value}
    )


async def test_watchdog_lane_without_consumers_is_logged_once_and_its_recovery(
    test_app: ServiceUnderTest,
) -> None:
    depth: tuple[int, int] | None = (1, 0)

    async def seen(queue: str) -> tuple[int, int] | None:
        return depth if queue == "q.samples" else (0, 1)

    watchdog = Watchdog(
        test_app.service.queries.lane_work,
        seen,
        {Stage.SAMPLES: "q.samples", Stage.FINAL: "q.final"},
        now=test_app.clock,
        quiet_for=timedelta(minutes=2),
    )
    await test_app.submitted()
    job = await test_app.next_job()
    with structlog.testing.capture_logs() as logs:
        await watchdog.step()
        test_app.clock.advance(minutes=3)
        for _ in range(3):
            await watchdog.step()
        assert figure(Stage.SAMPLES, StallKind.NO_CONSUMER) == 1
        depth = None
        await watchdog.step()
        assert figure(Stage.SAMPLES, StallKind.NO_CONSUMER) == 0
        assert figure(Stage.SAMPLES, StallKind.NEVER_STARTED) == 1
        await test_app.deliver(job)
        await watchdog.step()
    assert [(entry["event"], entry["kind"]) for entry in logs] == [
        ("worker_stalled", "no_consumer"),
        ("worker_stalled", "never_started"),
        ("worker_recovered", "no_consumer"),
        ("worker_recovered", "never_started"),
    ]
    assert logs[0]["jobs"] == 1
    assert figure(Stage.SAMPLES, StallKind.NEVER_STARTED) == 0


async def test_watchdog_distinguishes_started_jobs_and_lanes(test_app: ServiceUnderTest) -> None:
    request = await test_app.with_samples()
    await test_app.submitted("other")
    working = await test_app.next_job()
    assert working.job_id is not None
    await test_app.jobs.work_started(working.id, working.job_id)
    await test_app.select(request)
    final = await test_app.next_job()
    test_app.clock.advance(minutes=3)
    stalled = await test_app.service.watchdog.look()
    assert {(stall.lane, stall.kind) for stall in stalled} == {
        (Stage.SAMPLES, StallKind.SILENT),
        (Stage.FINAL, StallKind.NEVER_STARTED),
    }
    assert working.job_id is not None
    await test_app.jobs.progress_reported(working.id, working.job_id, {"percent": 40})
    assert {stall.lane for stall in await test_app.service.watchdog.look()} == {Stage.FINAL}
    await test_app.deliver(final)
