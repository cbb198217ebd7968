"""Commands of workers and deadlines: pure functions from a request to an event."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain import errors, worker_errors
from creativeflow.services.aigeneration.domain.commands import ALREADY_DONE, AlreadyDone
from creativeflow.services.aigeneration.domain.events import (
    AttemptFailed,
    DeadlinePassed,
    DomainEvent,
    ExpiryNeared,
    FinalDelivered,
    JobLeased,
    JobNotTaken,
    JobReturned,
    ProgressReported,
    SamplesDelivered,
    attempt_ended,
    work_started,
)
from creativeflow.services.aigeneration.domain.lifecycle import (
    AT_WORK,
    ON_DEADLINE,
    Event,
    Stage,
    State,
)
from creativeflow.services.aigeneration.domain.model_routing import Routing
from creativeflow.services.aigeneration.domain.ordering import route_for_attempt
from creativeflow.services.aigeneration.domain.policy import Policy
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
from creativeflow.services.aigeneration.domain.worker_errors import to_failure

_RETURN_PAUSE_MAX = timedelta(minutes=1)
"""The longest pause before a job that could not be published is tried again."""


def lease_job(
    request: GenerationRequest, *, routing: Routing, policy: Policy, now: datetime
) -> JobLeased:
    """Lease the job and choose the model of its attempt."""
    chosen = request.route["chosen"] if request.route else request.brief.get("model")
    model = routing.attempt(chosen, attempt=request.attempt, max_attempts=policy.max_attempts)
    return JobLeased(
        lease_until=now + policy.job_lease,
        model=model.name,
        route=route_for_attempt(request.route, model),
        data={"job_id": request.job_id, "attempt": request.attempt, "model": model.name},
    )


def return_job(
    request: GenerationRequest, *, policy: Policy, now: datetime, data: Mapping[str, Any]
) -> JobReturned:
    """Return a job that was not published; the pause grows with the time that it has waited."""
    waited = timedelta(0)
    if request.deadline_at is not None:
        waited = now - (request.deadline_at - policy.dispatch_deadline)
    pause = max(policy.retry_delay, min(_RETURN_PAUSE_MAX, waited / 2))
    return JobReturned(due_at=now + pause, data=data)


def check_job(request: GenerationRequest, job_id: UUID) -> None:
    """Check the fencing token: a report counts only for the current job of its request.

    Raises:
        StaleResultError: the job is another one.
    """
    if request.job_id != job_id:
        raise errors.StaleResultError


def start_work(request: GenerationRequest, *, job_id: UUID) -> DomainEvent | AlreadyDone:
    """Record that a worker has started; a repeated report is `AlreadyDone`.

    Raises:
        StaleResultError
    """
    check_job(request, job_id)
    if request.state in AT_WORK and request.progress is not None:
        return ALREADY_DONE
    return work_started(
        request.stage, progress={"percent": 0}, samples=request.samples, data={"job_id": job_id}
    )


def report_progress(
    request: GenerationRequest,
    *,
    job_id: UUID,
    progress: Mapping[str, Any],
    samples: Sequence[Asset],
) -> DomainEvent:
    """Record progress; finished samples become visible, but can be selected only when all are
    delivered.

    Raises:
        StaleResultError
    """
    check_job(request, job_id)
    seen = request.samples
    if samples and request.stage is Stage.SAMPLES:
        seen = judge_samples(request, (*request.samples, *samples), ()).good
    data = {"job_id": job_id, **progress}
    if request.state in AT_WORK:
        return ProgressReported(progress=dict(progress), samples=seen, data=data)
    return work_started(request.stage, progress=dict(progress), samples=seen, data=data)


def deliver_samples(
    request: GenerationRequest,
    *,
    job_id: UUID,
    samples: Sequence[Asset],
    failures: Sequence[SampleFailure],
    ai_model_used: str | None,
    data: Mapping[str, Any],
    policy: Policy,
) -> DomainEvent | AlreadyDone:
    """Deliver the valid samples and capture their price; without a valid one the attempt fails
    (REQ-008).

    Raises:
        StaleResultError: the report is for another job.
        InvalidRequestError: the job makes a final.
    """
    check_job(request, job_id)
    check_stage(request, Stage.SAMPLES)
    if request.state is State.AWAITING_SELECTION:
        return ALREADY_DONE
    judged = judge_samples(request, samples, failures, ordered=policy.sample_count)
    if not judged.good:
        code = judged.failures[0]["error_code"] if judged.failures else INVALID_OUTPUT
        found = {"failures": list(judged.failures), **data}
        return fail_attempt(request, code=code, data=found, policy=policy)
    return SamplesDelivered(
        samples=judged.good,
        sample_failures=judged.failures,
        ai_model_used=ai_model_used or request.model,
        data={"job_id": job_id, "good": len(judged.good), "failed": len(judged.failures), **data},
    )


def deliver_final(
    request: GenerationRequest,
    *,
    job_id: UUID,
    asset: Asset,
    ai_model_used: str | None,
    data: Mapping[str, Any],
    policy: Policy,
) -> DomainEvent | AlreadyDone:
    """Complete the request if size and format are as ordered (REQ-009), otherwise fail the attempt.

    Raises:
        StaleResultError: the report is for another job.
        InvalidRequestError: the job makes samples.
    """
    check_job(request, job_id)
    check_stage(request, Stage.FINAL)
    if request.state is State.COMPLETED:
        return ALREADY_DONE
    if not final_fits(request, asset):
        evidence = {"resolution": asset["resolution"], "format": asset["format"]}
        return fail_attempt(request, code=INVALID_OUTPUT, data=evidence, policy=policy)
    return FinalDelivered(
        final_asset=asset,
        ai_model_used=ai_model_used or request.model,
        data={"job_id": job_id, "asset_id": asset["asset_id"], **data},
    )


def report_failure(
    request: GenerationRequest, *, job_id: UUID, code: str, data: Mapping[str, Any], policy: Policy
) -> DomainEvent | AlreadyDone:
    """Apply the row of `worker_errors.py` for a worker's error code.

    Raises:
        StaleResultError
    """
    check_job(request, job_id)
    known = worker_errors.reported_code(code)
    if request.terminal and request.failure and request.failure["code"] == known:
        return ALREADY_DONE
    return fail_attempt(request, code=code, data=data, policy=policy)


def fail_attempt(
    request: GenerationRequest, *, code: str, data: Mapping[str, Any], policy: Policy
) -> DomainEvent:
    """Start another attempt if the error is transient and an attempt is left, otherwise end the
    request.
    """
    known = worker_errors.reported_code(code)
    error = worker_errors.worker_error_for(known)
    evidence = {
        "job_id": request.job_id,
        "code": known,
        "reported": code,
        "fault": error.responsibility,
        "attempt": request.attempt,
        **data,
    }
    if error.transient and request.attempt < policy.max_attempts:
        return AttemptFailed(data=evidence)
    kind = Event.ATTEMPTS_EXHAUSTED if error.transient else error.event
    return attempt_ended(kind, to_failure(known), evidence)


def pass_time(
    request: GenerationRequest, *, now: datetime, policy: Policy
) -> DomainEvent | AlreadyDone:
    """Apply what is overdue: a deadline, an expired lease or a reminder."""
    if request.deadline_at and request.deadline_at <= now:
        untaken = request.state in AT_WORK and request.progress is None
        if untaken and request.due_at and now < request.due_at + policy.dispatch_deadline:
            return JobNotTaken(data={"job_id": request.job_id, "deadline": request.deadline_at})
        if ON_DEADLINE[request.state] is Event.ATTEMPT_FAILED and not untaken:
            data = {"deadline": request.deadline_at}
            return fail_attempt(request, code="model_timeout", data=data, policy=policy)
        expired = request.state is State.AWAITING_SELECTION
        failure = None if expired else to_failure(worker_errors.DISPATCH_TIMEOUT)
        return DeadlinePassed(failure=failure)
    if request.lease_until and request.lease_until <= now:
        return JobReturned(due_at=now, data={"job_id": request.job_id, "reason": "lease expired"})
    awaiting = request.state is State.AWAITING_SELECTION
    if awaiting and request.remind_at and request.remind_at <= now:
        return ExpiryNeared()
    return ALREADY_DONE


def check_stage(request: GenerationRequest, stage: Stage) -> None:
    """Check that the current job makes what was delivered.

    Raises:
        InvalidRequestError: it makes something else.
    """
    if request.stage is not stage:
        raise errors.InvalidRequestError.at(
            "/job_id",
            "wrong_stage",
            f"This job makes the {request.stage}; send its result to the matching address.",
        )
