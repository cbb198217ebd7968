"""The rhythm of the background roles: soon after work, seldom without, at once when woken."""

import asyncio
import time

from creativeflow.services.aigeneration.worker.loop import Loop


class Steps:
    """Steps that find work as they are told, and remember when they were taken."""

    def __init__(self, *found: int) -> None:
        self.found = list(found)
        self.times: list[float] = []

    async def __call__(self) -> int:
        """One step."""
        self.times.append(time.monotonic())
        return self.found.pop(0) if self.found else 0

    @property
    def pauses(self) -> list[float]:
        """What lay between the steps, in seconds."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


async def run(steps: Steps, seconds: float, *, interval: float = 0.3) -> Loop:
    """A loop that has run for so long."""
    loop = Loop("test", steps, interval_seconds=interval)
    loop.start()
    await asyncio.sleep(seconds)
    return loop


async def test_after_work_it_looks_again_at_once_and_then_ever_more_seldom() -> None:
    steps = Steps(3, 2, 0, 0, 0, 0, 0, 0)
    await (await run(steps, 1.0)).stop()
    assert steps.pauses[0] < 0.01
    assert steps.pauses[2] < steps.pauses[4] < steps.pauses[6]
    assert max(steps.pauses) < 0.45


async def test_without_work_it_rests_for_the_interval() -> None:
    steps = Steps()
    await (await run(steps, 1.5)).stop()
    assert len(steps.times) < 12
    assert 0.25 < steps.pauses[-2] < 0.45


async def test_it_can_be_woken() -> None:
    steps = Steps()
    loop = await run(steps, 0.6, interval=60)
    steps.found, before = [1, 0], len(steps.times)
    loop.wake()
    await asyncio.sleep(0.05)
    assert len(steps.times) > before
    await loop.stop()
