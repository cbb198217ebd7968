"""One user queues ten thousand jobs, then another queues one: how many go before it."""

import asyncio
from collections.abc import Sequence

from bench.parts import database
from bench.publish import submission
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome
from creativeflow.services.aigeneration.settings import Settings

WINDOW = 100


class _Worker:
    """An engine that takes every job and remembers the order."""

    ready = True

    def __init__(self) -> None:
        self.taken: list[GenerationRequest] = []

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        self.taken += jobs
        return [Publication(PublicationOutcome.ACCEPTED)] * len(jobs)


async def measure(*, jobs: int) -> dict[str, object]:
    """The heavy user's queue is full and a window of it is with the workers when the other user
    comes.
    """
    worker = _Worker()
    async with database() as url:
        settings = Settings(_env_file=None, lane_window=WINDOW, callback_secret="bench" * 8)  # type: ignore[call-arg]
        service = Container(settings, database_url=url, engine=worker)
        await service.store.prepare_months(now())
        # The plan that lets one user have the most jobs with workers at once.
        await service.database.execute(
            "INSERT INTO credit_accounts (user_id, plan) VALUES ('heavy', 'enterprise')"
        )
        for start in range(0, jobs, 500):
            await asyncio.gather(
                *(submit(service, "heavy") for _ in range(start, min(jobs, start + 500)))
            )
        await service.dispatcher.step()
        before = len(worker.taken)
        light = await submit(service, "light")
        finished = 0
        while all(job.id != light for job in worker.taken):
            finished = await _finish(service, worker, finished)
            await service.dispatcher.step()
        place = next(index for index, job in enumerate(worker.taken) if job.id == light)
        await service.stop()
    return {"queued_before": jobs, "window": WINDOW, "dispatched_before_the_other": place - before}


async def submit(service: Container, user: str) -> object:
    """A request of this user; its id."""
    reply = await service.generations.submit(submission(user))
    assert reply.request is not None
    return reply.request.id


async def _finish(service: Container, worker: _Worker, finished: int) -> int:
    """The oldest job ends, as jobs do: one place in the window becomes free."""
    job = worker.taken[finished]
    assert job.job_id is not None
    await service.jobs.attempt_failed(job.id, job.job_id, "invalid_input")
    return finished + 1
