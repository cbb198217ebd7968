"""What happens to jobs: leased, confirmed, reported on by workers, and overtaken by time; one
method for each thing.

A report counts only for the current job of its request: the job's id is the fencing token. Anything
else is kept as evidence, never applied and never paid.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.application.transitions import Decide, TransitionRunner
from creativeflow.services.aigeneration.domain import errors, worker_errors
from creativeflow.services.aigeneration.domain.lifecycle import (
    CONFIRMED,
    DELIVERED,
    ON_DEADLINE,
    STARTED,
    TRANSITIONS,
    Event,
    Stage,
    State,
)
from creativeflow.services.aigeneration.domain.model_routing import Routing
from creativeflow.services.aigeneration.domain.ordering import route_for_attempt
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    GenerationRequest,
    SampleFailure,
)
from creativeflow.services.aigeneration.domain.result_checks import (
    INVALID_OUTPUT,
    final_fits,
    judge_samples,
)
from creativeflow.services.aigeneration.domain.transitions import (
    StateChange,
    TimelineEntry,
    failure,
)
from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome
from creativeflow.services.aigeneration.storage.requests import LeasedJobs


class JobService:
    """Moves requests along their jobs; all its state is in the store, so any number of processes
    may run it.
    """

    def __init__(self, mover: TransitionRunner, *, routing: Callable[[], Routing]) -> None:
        self._mover = mover
        self._routing = routing

    # What dispatchers do

    async def lease(self, lane: Stage, *, window: int, most: int) -> LeasedJobs:
        """Take the next jobs of a lane in fair order; each is leased to the caller for a bounded
        time.
        """
        now, routing = self._mover.now(), self._routing()

        def lease(request: GenerationRequest) -> StateChange:
            chosen = request.route["chosen"] if request.route else request.brief.get("model")
            model = routing.attempt(
                chosen, attempt=request.attempt, max_attempts=self._mover.policy.max_attempts
            )
            return self._mover.apply_event(
                request,
                Event.JOB_LEASED,
                lease_until=now + self._mover.policy.job_lease,
                model=model.name,
                route=route_for_attempt(request.route, model),
                data={"job_id": request.job_id, "attempt": request.attempt, "model": model.name},
            )

        leased = await self._mover.store.lease_jobs(
            lane,
            window=window,
            most=most,
            per_user=self._mover.policy.in_flight,
            now=now,
            lease=lease,
        )
        for request in leased.jobs:
            self._mover.remember(request)
        return leased

    async def published(self, published: Sequence[tuple[GenerationRequest, Publication]]) -> None:
        """Write what came of publishing leased jobs. A job that a worker has already answered stays
        as it is.
        """
        changes = []
        for request, publication in published:
            data = {"job_id": request.job_id}
            if publication.outcome is PublicationOutcome.ACCEPTED:
                changes.append(
                    self._mover.apply_event(request, CONFIRMED[request.stage], data=data)
                )
            else:
                changes.append(
                    self._mover.apply_event(
                        request,
                        Event.JOB_RETURNED,
                        due_at=self._mover.now() + self._mover.policy.retry_delay,
                        data=data | {"outcome": publication.outcome, "reason": publication.reason},
                    )
                )
        for change, written in zip(
            changes, await self._mover.store.write_moves(changes), strict=True
        ):
            if written:
                self._mover.on_committed(change)

    # What workers report

    async def work_started(self, request_id: UUID, job_id: UUID) -> GenerationRequest:
        """A worker has begun. Again: nothing happens.

        Raises:
            NotFoundError: no such request. StaleResultError: the job is not the current one; the
            worker stops.
        """

        def decide(request: GenerationRequest) -> StateChange | None:
            if (
                request.state in (State.PROCESSING_SAMPLES, State.PROCESSING_FINAL)
                and request.progress is not None
            ):
                return None
            return self._mover.apply_event(
                request, STARTED[request.stage], progress={"percent": 0}, data={"job_id": job_id}
            )

        return await self._report(request_id, job_id, "started", decide)

    async def progress_reported(
        self,
        request_id: UUID,
        job_id: UUID,
        progress: Mapping[str, Any],
        samples: Sequence[Asset] = (),
    ) -> GenerationRequest:
        """A worker says how far it is; samples that are ready can be seen, but not yet selected."""

        def decide(request: GenerationRequest) -> StateChange:
            fields: dict[str, Any] = {"progress": dict(progress)}
            if samples and request.stage is Stage.SAMPLES:
                fields["samples"] = judge_samples(request, (*request.samples, *samples), ()).good
            begun = request.state in (State.PROCESSING_SAMPLES, State.PROCESSING_FINAL)
            event = Event.PROGRESS_REPORTED if begun else STARTED[request.stage]
            return self._mover.apply_event(
                request, event, data={"job_id": job_id, **progress}, **fields
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
        """Samples came: the good ones are shown and paid for; none good is a failed attempt
        (REQ-008).
        """

        def decide(request: GenerationRequest) -> StateChange | None:
            if request.stage is not Stage.SAMPLES:
                raise _wrong_stage(request)
            if request.state is State.AWAITING_SELECTION:
                return None
            judged = judge_samples(
                request, samples, failures, ordered=self._mover.policy.sample_count
            )
            if not judged.good:
                code = judged.failures[0]["error_code"] if judged.failures else INVALID_OUTPUT
                return self._fail_attempt(
                    request, code, {"failures": list(judged.failures), **(data or {})}
                )
            return self._mover.apply_event(
                request,
                DELIVERED[Stage.SAMPLES],
                samples=judged.good,
                sample_failures=judged.failures,
                ai_model_used=ai_model_used or request.model,
                progress=None,
                data={
                    "job_id": job_id,
                    "good": len(judged.good),
                    "failed": len(judged.failures),
                    **(data or {}),
                },
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
        """The final came: completed and paid for, if size and format are what was asked
        (REQ-009).
        """

        def decide(request: GenerationRequest) -> StateChange | None:
            if request.stage is not Stage.FINAL:
                raise _wrong_stage(request)
            if request.state is State.COMPLETED:
                return None
            if not final_fits(request, asset):
                evidence = {"resolution": asset["resolution"], "format": asset["format"]}
                return self._fail_attempt(request, INVALID_OUTPUT, evidence)
            return self._mover.apply_event(
                request,
                DELIVERED[Stage.FINAL],
                final_asset=asset,
                progress=None,
                ai_model_used=ai_model_used or request.model,
                data={"job_id": job_id, "asset_id": asset["asset_id"], **(data or {})},
            )

        return await self._report(request_id, job_id, "final", decide)

    async def attempt_failed(
        self, request_id: UUID, job_id: UUID, code: str, data: Mapping[str, Any] | None = None
    ) -> GenerationRequest:
        """A worker gave up: tried again, failed, or rejected, by the table in
        `domain/worker_errors.py`.
        """

        def decide(request: GenerationRequest) -> StateChange | None:
            if (
                request.terminal
                and request.failure
                and request.failure["code"] == worker_errors.reported_code(code)
            ):
                return None
            return self._fail_attempt(request, code, data or {})

        return await self._report(request_id, job_id, "error", decide)

    async def awaiting_result(
        self, request_id: UUID, job_id: UUID, stage: Stage
    ) -> GenerationRequest | None:
        """The request, if it waits for a result of this job and stage; None if it has this result
        already.

        For what must be known before the costly look at the pictures; the result itself is fenced
        once more.

        Raises:
            NotFoundError: no such request. StaleResultError, InvalidRequestError: it waits for
            something else.
        """
        request = await self._mover.load_owned(request_id, None)
        if request.job_id == job_id and request.stage is not stage:
            raise _wrong_stage(request)
        if request.job_id == job_id and request.state in (
            State.AWAITING_SELECTION,
            State.COMPLETED,
        ):
            return None
        if request.job_id == job_id and (request.state, DELIVERED[stage]) in TRANSITIONS:
            return request
        await self._note_stale(request_id, job_id, stage)
        raise errors.StaleResultError

    async def current_job(self, request_id: UUID) -> UUID:
        """The current job of a request.

        Raises:
            NotFoundError: no such request. StaleResultError: it has no job now.
        """
        request = await self._mover.load_owned(request_id, None)
        if request.job_id is None:
            raise errors.StaleResultError
        return request.job_id

    # What time does

    async def time_passed(self, request: GenerationRequest) -> None:
        """Let happen what is overdue: a deadline, an expired lease, a reminder."""

        def decide(current: GenerationRequest) -> StateChange | None:
            now = self._mover.now()
            if current.deadline_at and current.deadline_at <= now:
                if ON_DEADLINE[current.state] is Event.ATTEMPT_FAILED:
                    return self._fail_attempt(
                        current, "model_timeout", {"deadline": current.deadline_at}
                    )
                expired = current.state is State.AWAITING_SELECTION
                return self._mover.apply_event(
                    current,
                    ON_DEADLINE[current.state],
                    pending_action=None,
                    failure=None if expired else failure(worker_errors.DISPATCH_TIMEOUT),
                )
            if current.lease_until and current.lease_until <= now:
                return self._mover.apply_event(
                    current,
                    Event.JOB_RETURNED,
                    due_at=now,
                    data={"job_id": current.job_id, "reason": "lease expired"},
                )
            if (
                current.remind_at
                and current.remind_at <= now
                and current.state is State.AWAITING_SELECTION
            ):
                return self._mover.apply_event(current, Event.EXPIRY_NEARED, remind_at=None)
            return None

        await self._mover.move(request.id, decide)

    # How it is done

    def _fail_attempt(
        self, request: GenerationRequest, code: str, data: Mapping[str, Any]
    ) -> StateChange:
        """By the fault's line: another attempt while there is one, else the end with friendly
        words.
        """
        known = worker_errors.reported_code(code)
        fault = worker_errors.worker_error_for(known)
        data = {
            "job_id": request.job_id,
            "code": known,
            "reported": code,
            "fault": fault.party,
            "attempt": request.attempt,
            **data,
        }
        if fault.transient and request.attempt < self._mover.policy.max_attempts:
            return self._mover.apply_event(request, Event.ATTEMPT_FAILED, data=data)
        event = Event.ATTEMPTS_EXHAUSTED if fault.transient else fault.event
        return self._mover.apply_event(
            request, event, data=data, failure=failure(known), progress=None
        )

    async def _report(
        self, request_id: UUID, job_id: UUID, kind: str, decide: Decide
    ) -> GenerationRequest:
        """Apply what a worker says of its job; anything for another job is kept as evidence
        only.
        """

        def fenced(request: GenerationRequest) -> StateChange | None:
            if request.job_id != job_id:
                raise errors.StaleResultError
            try:
                return decide(request)
            except errors.IllegalTransitionError:
                raise errors.StaleResultError from None

        try:
            return await self._mover.move(request_id, fenced)
        except errors.StaleResultError:
            await self._note_stale(request_id, job_id, kind)
            raise

    async def _note_stale(self, request_id: UUID, job_id: UUID, kind: str) -> None:
        entry = TimelineEntry("stale_result", None, {"job_id": job_id, "kind": kind})
        await self._mover.store.note(request_id, entry, self._mover.now())


def _wrong_stage(request: GenerationRequest) -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        "/job_id",
        "wrong_stage",
        f"This job makes the {request.stage}; send its result to the matching address.",
    )
