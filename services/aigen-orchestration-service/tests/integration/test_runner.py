"""The polling loop of the background roles, and the supervision of long-running tasks."""

import asyncio
import time

import pytest
from prometheus_client import REGISTRY

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError
from creativeflow.services.aigeneration.kit.supervision import SupervisedTask
from creativeflow.services.aigeneration.workers import runner as loop_module
from creativeflow.services.aigeneration.workers.runner import Poller


class Steps:
    """Steps with configured results, which record when they ran."""

    def __init__(self, *found: int) -> None:
        self.found = list(found)
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(time.monotonic())
        return self.found.pop(0) if self.found else 0

    @property
    def pauses(self) -> list[float]:
        """Return the pauses between the steps, in seconds."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


async def run(steps: Steps, seconds: float, *, interval: float = 0.3) -> Poller:
    """Run a poller for this long."""
    loop = Poller("test", steps, interval_seconds=interval)
    loop.start()
    await asyncio.sleep(seconds)
    return loop


async def test_poller_after_work_polls_at_once_then_less_often() -> None:
    steps = Steps(3, 2, 0, 0, 0, 0, 0, 0)
    await (await run(steps, 1.0)).stop()
    assert steps.pauses[0] < 0.01
    assert steps.pauses[2] < steps.pauses[4] < steps.pauses[6]
    assert max(steps.pauses) < 0.45


async def test_poller_without_work_waits_for_the_interval() -> None:
    steps = Steps()
    await (await run(steps, 1.5)).stop()
    assert len(steps.times) < 12
    assert 0.25 < steps.pauses[-2] < 0.45


async def test_poller_woken_steps_at_once() -> None:
    steps = Steps()
    loop = await run(steps, 0.6, interval=60)
    steps.found, before = [1, 0], len(steps.times)
    loop.wake()
    await asyncio.sleep(0.05)
    assert len(steps.times) > before
    await loop.stop()


async def test_poller_after_1100_failures_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """An uncapped exponential pause overflows a float at the 1,024th failure, which ended
    the role.
    """
    monkeypatch.setattr(loop_module, "_PAUSE_MAX_SECONDS", 0.0)
    calls, recovered = 0, asyncio.Event()

    async def step() -> int:
        nonlocal calls
        calls += 1
        if calls <= 1100:
            raise StorageUnavailableError
        recovered.set()
        return 0

    loop = Poller("outage", step, interval_seconds=0.01)
    loop.start()
    async with asyncio.timeout(20):
        await recovered.wait()
    status = loop.status
    await loop.stop()
    assert status is not None
    assert status.running
    assert status.restarts == 0


async def test_poller_failing_for_long_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_DEGRADED_AFTER_SECONDS", 0.0)
    failed = asyncio.Event()

    async def step() -> int:
        failed.set()
        raise StorageUnavailableError

    loop = Poller("failing", step, interval_seconds=0.01)
    assert loop.status is None
    loop.start()
    await failed.wait()
    await asyncio.sleep(0)
    status = loop.status
    await loop.stop()
    assert status is not None
    assert not status.ok
    assert "storage_unavailable" in status.detail


class Runs:
    """A coroutine whose first runs end as configured; later ones run until cancelled."""

    def __init__(self, *ends: str) -> None:
        self.ends = list(ends)
        self.stable = asyncio.Event()
        self.inner: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        match self.ends.pop(0) if self.ends else "":
            case "raise":
                raise RuntimeError("unexpected")
            case "cancel":
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)
            case "return":
                return
            case _:
                self.stable.set()
                await asyncio.Event().wait()


@pytest.mark.parametrize("end", ["raise", "cancel", "return"])
async def test_supervised_task_that_ends_is_restarted_and_counted(end: str) -> None:
    counter, labels = "aigen_background_task_restarts_total", {"task": f"test-{end}"}
    runs = Runs(end, end)
    task = SupervisedTask(f"test-{end}", runs, pause_seconds=(0.001, 0.01))
    task.start()
    async with asyncio.timeout(5):
        await runs.stable.wait()
    assert task.status.ok
    assert task.status.restarts == 2
    assert REGISTRY.get_sample_value(counter, labels) == 2
    assert not await task.stop()
    assert not task.status.running


async def test_supervised_task_between_two_runs_is_not_ok_and_can_be_stopped() -> None:
    runs = Runs("raise")
    task = SupervisedTask("test-pause", runs, pause_seconds=(60, 60))
    task.start()
    async with asyncio.timeout(5):
        while not task.status.restarts:
            await asyncio.sleep(0)
    assert "RuntimeError" in task.status.detail
    await task.stop()
    assert not runs.stable.is_set()


async def test_supervised_task_that_may_return_rests_until_it_is_started_again() -> None:
    runs = Runs("return", "return")
    task = SupervisedTask("test-demand", runs, may_return=True, pause_seconds=(0.001, 0.01))
    for _ in range(2):
        task.start()
        async with asyncio.timeout(5):
            while task.wanted:
                await asyncio.sleep(0)
        assert task.status.restarts == 0
        assert task.status.detail == ""
    assert runs.ends == []
