"""The life of jobs: leased, published, reported on by workers, and overtaken by deadlines.

A report counts only for the current job of its request: the job's id is the fencing token. Any
other report is stored in the timeline as evidence, never applied and never paid.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.application.transitions import Decide, TransitionRunner
from creativeflow.services.aigeneration.domain import errors, job_commands
from creativeflow.services.aigeneration.domain.events import job_confirmed
from creativeflow.services.aigeneration.domain.lifecycle import DELIVERED, TRANSITIONS, Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Routing
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    GenerationRequest,
    SampleFailure,
)
from creativeflow.services.aigeneration.domain.transitions import (
    LeaseOffer,
    StateChange,
    TimelineEntry,
)
from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome
from creativeflow.services.aigeneration.storage.requests import LeasedJobs


class JobService:
    """The use cases of dispatchers, workers and deadlines; stateless."""

    def __init__(self, runner: TransitionRunner, *, routing: Callable[[], Routing]) -> None:
        self._runner = runner
        self._policy = runner.policy
        self._routing = routing

    # Dispatchers

    async def lease(self, lane: Stage, *, window: int, most: int) -> LeasedJobs:
        """Lease the next jobs of a lane in fair order, for a bounded time."""
        leased = await self._runner.store.lease_jobs(
            lane,
            window=window,
            most=most,
            per_user=self._policy.in_flight,
            now=self._runner.now(),
            lease=self._lease,
        )
        for request in leased.jobs:
            self._runner.cache.put(request)
        return leased

    def offer_lease(self, request: GenerationRequest, *, window: int) -> LeaseOffer:
        """Return the lease of a job that is being queued, for the statement that queues it."""
        return LeaseOffer(
            change=self._lease(request),
            window=window,
            per_user=self._policy.in_flight.get(request.plan, window),
        )

    def _lease(self, request: GenerationRequest) -> StateChange:
        leased = job_commands.lease_job(
            request, routing=self._routing(), policy=self._policy, now=self._runner.now()
        )
        return self._runner.apply(request, leased)

    async def published(
        self, published: Sequence[tuple[GenerationRequest, Publication]], *, at_once: bool = True
    ) -> None:
        """Write the outcome of publishing leased jobs; a job already reported on stays as it is.

        `at_once`: False leaves a confirm to be written with the worker's first report.
        """
        changes = [self._after_publication(*each) for each in published]
        if not at_once:
            confirmed = [c for c in changes if c.after.state is not State.PENDING]
            self._runner.confirms.add(confirmed)
            changes = [c for c in changes if c.after.state is State.PENDING]
        await self._runner.write_all(changes)

    def _after_publication(
        self, request: GenerationRequest, publication: Publication
    ) -> StateChange:
        data: dict[str, Any] = {"job_id": request.job_id}
        if publication.outcome is PublicationOutcome.ACCEPTED:
            return self._runner.apply(request, job_confirmed(request.stage, data))
        data |= {"outcome": publication.outcome, "reason": publication.reason}
        returned = job_commands.return_job(
            request, policy=self._policy, now=self._runner.now(), data=data
        )
        return self._runner.apply(request, returned)

    # Workers

    async def work_started(self, request_id: UUID, job_id: UUID) -> GenerationRequest:
        """Record that a worker has begun; idempotent.

        Raises:
            NotFoundError: no such request.
            StaleResultError: the job is not the current one; the worker stops.
        """
        decide = partial(job_commands.start_work, job_id=job_id)
        return await self._report(request_id, job_id, "started", decide)

    async def progress_reported(
        self,
        request_id: UUID,
        job_id: UUID,
        progress: Mapping[str, Any],
        samples: Sequence[Asset] = (),
    ) -> GenerationRequest:
        """Record progress; samples that are ready can be seen, but not yet selected.

        Raises:
            NotFoundError, StaleResultError
        """
        decide = partial(
            job_commands.report_progress, job_id=job_id, progress=progress, samples=samples
        )
        return await self._report(request_id, job_id, "progress", decide)

    async def samples_delivered(
        self,
        request_id: UUID,
        job_id: UUID,
        samples: Sequence[Asset],
        failures: Sequence[SampleFailure],
        *,
        ai_model_used: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> GenerationRequest:
        """Show and capture the valid samples; none valid is a failed attempt (REQ-008).

        Raises:
            NotFoundError, StaleResultError, InvalidRequestError
        """
        decide = partial(
            job_commands.deliver_samples,
            job_id=job_id,
            samples=samples,
            failures=failures,
            ai_model_used=ai_model_used,
            data=data or {},
            policy=self._policy,
        )
        return await self._report(request_id, job_id, "samples", decide)

    async def final_delivered(
        self,
        request_id: UUID,
        job_id: UUID,
        asset: Asset,
        ai_model_used: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> GenerationRequest:
        """Complete and capture a final whose size and format are as ordered (REQ-009).

        Raises:
            NotFoundError, StaleResultError, InvalidRequestError
        """
        decide = partial(
            job_commands.deliver_final,
            job_id=job_id,
            asset=asset,
            ai_model_used=ai_model_used,
            data=data or {},
            policy=self._policy,
        )
        return await self._report(request_id, job_id, "final", decide)

    async def attempt_failed(
        self, request_id: UUID, job_id: UUID, code: str, data: Mapping[str, Any] | None = None
    ) -> GenerationRequest:
        """Apply a worker's error by the table in `domain/worker_errors.py`.

        Raises:
            NotFoundError, StaleResultError
        """
        decide = partial(
            job_commands.report_failure,
            job_id=job_id,
            code=code,
            data=data or {},
            policy=self._policy,
        )
        return await self._report(request_id, job_id, "error", decide)

    async def awaiting_result(
        self, request_id: UUID, job_id: UUID, stage: Stage
    ) -> GenerationRequest | None:
        """Return the request if it waits for this result; None if it has it already.

        Asked before the costly check of the pictures; the result itself is fenced once more.

        Raises:
            NotFoundError: no such request.
            StaleResultError, InvalidRequestError: it waits for something else.
        """
        request = await self._runner.load_owned(request_id, None)
        if request.job_id == job_id:
            job_commands.check_stage(request, stage)
            if request.state in (State.AWAITING_SELECTION, State.COMPLETED):
                return None
            if (request.state, DELIVERED[stage]) in TRANSITIONS:
                return request
        await self._log_stale(request_id, job_id, stage)
        raise errors.StaleResultError

    async def current_job(self, request_id: UUID) -> UUID:
        """Return the current job of a request.

        Raises:
            NotFoundError: no such request.
            StaleResultError: it has no job now.
        """
        request = await self._runner.load_owned(request_id, None)
        if request.job_id is None:
            raise errors.StaleResultError
        return request.job_id

    async def is_in_flight(self, job_id: UUID) -> bool:
        """Return whether a request is waiting for the results of this job."""
        return await self._runner.store.is_in_flight(job_id)

    # Deadlines

    async def time_passed(self, request: GenerationRequest) -> None:
        """Apply what is overdue: a deadline, an expired lease, a reminder."""
        decide = partial(job_commands.pass_time, now=self._runner.now(), policy=self._policy)
        await self._runner.run(request.id, decide)

    async def _report(
        self, request_id: UUID, job_id: UUID, kind: str, decide: Decide
    ) -> GenerationRequest:
        """Apply a report; one that no longer fits the request is stored as evidence only.

        Raises:
            NotFoundError, StaleResultError, InvalidRequestError
        """
        try:
            return (await self._runner.run(request_id, decide)).request
        except (errors.StaleResultError, errors.IllegalTransitionError):
            await self._log_stale(request_id, job_id, kind)
            raise errors.StaleResultError from None

    async def _log_stale(self, request_id: UUID, job_id: UUID, kind: str) -> None:
        entry = TimelineEntry("stale_result", None, {"job_id": job_id, "kind": kind})
        await self._runner.store.append_timeline(request_id, entry, self._runner.now())
