"""Dispatcher: lease the next jobs of the fair queue, publish them, record the outcomes."""

import asyncio

import structlog

from creativeflow.services.aigeneration.application.jobs import JobService
from creativeflow.services.aigeneration.application.transitions import TransitionRunner
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import LeaseOffer
from creativeflow.services.aigeneration.ports import Engine

log = structlog.get_logger(__name__)

LANES = (Stage.FINAL, Stage.SAMPLES)
"""Finals first: a user has selected and paid."""
BATCHES_MAX = 5
"""Maximum batches of one lane before the other lane is served."""
_STOP_SECONDS = 10.0


class Dispatcher:
    """Dispatches jobs; any number may run.

    One dispatcher at a time takes from a lane, and every job is leased to one.
    """

    def __init__(self, jobs: JobService, engine: Engine, *, window: int, batch: int = 200) -> None:
        self._jobs = jobs
        self._engine = engine
        self._window = window
        self._batch = batch
        self.window_full = False
        """Whether jobs wait only because their lane's window is full; a finished job is then a
        wake-up.
        """
        self._own: list[GenerationRequest] = []
        self._publishing: set[asyncio.Task[None]] = set()
        self._confirms_at_once = True

    def start_own(self, runner: TransitionRunner) -> None:
        """Publish the jobs that this process queues right after their commit, where their lane has
        room; and write the broker's confirms with the workers' first reports.
        """
        runner.offer_lease = self._offer_lease
        runner.on_leased = self._publish_own
        self._confirms_at_once = False

    async def stop_own(self, runner: TransitionRunner) -> None:
        """Leave new jobs to the dispatchers' steps, and finish those being published."""
        runner.offer_lease = None
        self._confirms_at_once = True
        await self.finish_own()
        await runner.confirms.flush()

    async def finish_own(self) -> None:
        """Wait until the jobs of this process that are being published have their outcome."""
        while self._publishing:
            done, _ = await asyncio.wait(self._publishing, timeout=_STOP_SECONDS)
            if not done:
                return

    def _offer_lease(self, request: GenerationRequest) -> LeaseOffer | None:
        if not self._engine.ready:
            return None
        return self._jobs.offer_lease(request, window=self._window)

    def _publish_own(self, request: GenerationRequest) -> None:
        """Publish a job that was leased when it was queued, together with others of its batch."""
        self._own.append(request)
        if len(self._own) == 1:
            task = asyncio.create_task(self._publish_collected())
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish_collected(self) -> None:
        jobs, self._own = self._own, []
        try:
            await self._hand_over(jobs)
        except Exception:
            # Their leases end, and the same jobs are published again.
            log.exception("jobs_not_published", count=len(jobs))

    async def step(self) -> int:
        """Dispatch some batches of each lane; return the number of published jobs."""
        if not self._engine.ready:
            return 0
        self.window_full = False
        return sum([await self._dispatch(lane) for lane in LANES])

    async def _dispatch(self, lane: Stage) -> int:
        """Lease the next batch while one is being published: the two wait for different servers."""
        count = 0
        on_its_way: asyncio.Task[None] | None = None
        try:
            for _ in range(BATCHES_MAX):
                leased = await self._jobs.lease(lane, window=self._window, most=self._batch)
                self.window_full = self.window_full or leased.window_full
                count += len(leased.jobs)
                before = on_its_way
                on_its_way = (
                    asyncio.create_task(self._hand_over(leased.jobs)) if leased.jobs else None
                )
                if before is not None:
                    await before
                if len(leased.jobs) < self._batch:
                    break
        finally:
            if on_its_way is not None:
                await on_its_way
        return count

    async def _hand_over(self, jobs: list[GenerationRequest]) -> None:
        publications = await self._engine.publish(jobs)
        await self._jobs.published(
            list(zip(jobs, publications, strict=True)), at_once=self._confirms_at_once
        )
