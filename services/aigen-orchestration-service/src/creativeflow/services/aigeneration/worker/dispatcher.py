"""From the fair queue to the engine: leases the next jobs, publishes them, records what came of it."""

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.jobs import Jobs
from creativeflow.services.aigeneration.ports import Engine

LANES = (Stage.FINAL, Stage.SAMPLES)
"""Finals go first: somebody has looked, chosen and paid."""


class Dispatcher:
    """Any number may run; each lane is taken from by one at a time, and every job is leased to one."""

    def __init__(self, jobs: Jobs, engine: Engine, *, window: int, batch: int = 200) -> None:
        self._jobs = jobs
        self._engine = engine
        self._window = window
        self._batch = batch
        self.window_full = False
        """Whether jobs wait only because their lane's window is full: then a finished job is worth a look."""

    async def step(self) -> int:
        """Dispatch one batch of each lane; how many jobs were published."""
        if not self._engine.ready:
            return 0
        self.window_full = False
        return sum([await self._dispatch(lane) for lane in LANES])

    async def _dispatch(self, lane: Stage) -> int:
        leased = await self._jobs.lease(lane, window=self._window, most=self._batch)
        self.window_full = self.window_full or leased.window_full
        if not (jobs := leased.jobs):
            return 0
        publications = await self._engine.publish(jobs)
        await self._jobs.published(list(zip(jobs, publications, strict=True)))
        return len(jobs)
