"""Worker reports, deadlines and leases, without a database."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain import errors, job_commands
from creativeflow.services.aigeneration.domain.commands import ALREADY_DONE
from creativeflow.services.aigeneration.domain.events import (
    AttemptFailed,
    AttemptsExhausted,
    DeadlinePassed,
    ExpiryNeared,
    FinalDelivered,
    FinalStarted,
    JobNotTaken,
    JobReturned,
    ProgressReported,
    PromptRejected,
    SamplesDelivered,
    SamplesStarted,
)
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.model_routing import STANDARD
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.worker_errors import to_failure
from tests.support.builders import (
    JOB_ID,
    NOW,
    REQUEST_ID,
    a_final,
    a_request,
    a_sample,
    four_samples,
)

POLICY = Policy()
OTHER_JOB = REQUEST_ID


def making_samples(**changes: Any) -> GenerationRequest:
    return a_request(**{"state": State.PROCESSING_SAMPLES} | changes)


def making_final(**changes: Any) -> GenerationRequest:
    return a_request(
        **{
            "state": State.PROCESSING_FINAL,
            "stage": Stage.FINAL,
            "final_size": Size(1080, 1080),
            "model": "standard",
        }
        | changes
    )


def deliver_samples(request: GenerationRequest, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "job_id": JOB_ID,
        "samples": four_samples(),
        "failures": (),
        "ai_model_used": None,
        "data": {},
        "policy": POLICY,
    }
    return job_commands.deliver_samples(request, **values | changes)


def deliver_final(request: GenerationRequest, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "job_id": JOB_ID,
        "asset": a_final(),
        "ai_model_used": None,
        "data": {},
        "policy": POLICY,
    }
    return job_commands.deliver_final(request, **values | changes)


def test_lease_job_names_the_model_and_the_end_of_the_lease() -> None:
    event = job_commands.lease_job(a_request(), routing=STANDARD, policy=POLICY, now=NOW)
    assert (event.model, event.lease_until) == ("standard", NOW + POLICY.job_lease)
    assert event.data == {"job_id": JOB_ID, "attempt": 1, "model": "standard"}


def test_report_of_another_job_is_stale() -> None:
    request = making_samples()
    with pytest.raises(errors.StaleResultError):
        job_commands.start_work(request, job_id=OTHER_JOB)
    with pytest.raises(errors.StaleResultError):
        job_commands.report_progress(request, job_id=OTHER_JOB, progress={}, samples=())
    with pytest.raises(errors.StaleResultError):
        deliver_samples(request, job_id=OTHER_JOB)
    with pytest.raises(errors.StaleResultError):
        deliver_final(making_final(), job_id=OTHER_JOB)
    with pytest.raises(errors.StaleResultError):
        job_commands.report_failure(
            request, job_id=OTHER_JOB, code="provider_error", data={}, policy=POLICY
        )


def test_start_work_is_recorded_once() -> None:
    started = job_commands.start_work(making_samples(), job_id=JOB_ID)
    assert isinstance(started, SamplesStarted)
    again = making_samples(progress={"percent": 0})
    assert job_commands.start_work(again, job_id=JOB_ID) is ALREADY_DONE
    assert isinstance(job_commands.start_work(making_final(), job_id=JOB_ID), FinalStarted)


def test_report_progress_before_the_start_is_the_start() -> None:
    queued = job_commands.report_progress(
        a_request(), job_id=JOB_ID, progress={"percent": 20}, samples=()
    )
    assert isinstance(queued, SamplesStarted)
    working = job_commands.report_progress(
        making_samples(), job_id=JOB_ID, progress={"percent": 20}, samples=()
    )
    assert isinstance(working, ProgressReported)
    assert working.data == {"job_id": JOB_ID, "percent": 20}


def test_report_progress_with_a_sample_adds_it_to_those_seen() -> None:
    event = job_commands.report_progress(
        making_samples(samples=(a_sample(index=0),)),
        job_id=JOB_ID,
        progress={"percent": 50},
        samples=(a_sample(asset_id="sample-2", index=1),),
    )
    assert isinstance(event, ProgressReported)
    assert [sample["asset_id"] for sample in event.samples] == ["sample-1", "sample-2"]


def test_deliver_samples_keeps_the_good_ones() -> None:
    event = deliver_samples(making_samples(model="standard"))
    assert isinstance(event, SamplesDelivered)
    assert (len(event.samples), event.ai_model_used) == (4, "standard")


def test_deliver_samples_again_is_already_done() -> None:
    assert deliver_samples(making_samples(state=State.AWAITING_SELECTION)) is ALREADY_DONE


def test_deliver_samples_without_a_good_one_is_a_failed_attempt() -> None:
    wrong = (a_sample(resolution="64x64"),)
    assert isinstance(deliver_samples(making_samples(), samples=wrong), AttemptFailed)
    last = making_samples(attempt=POLICY.max_attempts)
    assert isinstance(deliver_samples(last, samples=wrong), AttemptsExhausted)


def test_result_for_the_other_stage_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError):
        deliver_samples(making_final())
    with pytest.raises(errors.InvalidRequestError):
        deliver_final(making_samples())


def test_deliver_final_in_the_ordered_size_completes() -> None:
    event = deliver_final(making_final())
    assert isinstance(event, FinalDelivered)
    assert event.final_asset == a_final()
    assert deliver_final(making_final(state=State.COMPLETED)) is ALREADY_DONE


def test_deliver_final_in_another_size_is_a_failed_attempt() -> None:
    event = deliver_final(making_final(), asset=a_final(resolution="512x512"))
    assert isinstance(event, AttemptFailed)
    assert event.data["code"] == "invalid_output"


def test_report_failure_follows_the_table() -> None:
    rejected = job_commands.report_failure(
        making_samples(), job_id=JOB_ID, code="prompt_rejected", data={}, policy=POLICY
    )
    assert isinstance(rejected, PromptRejected)
    assert rejected.failure == to_failure("prompt_rejected")


def test_report_failure_that_ended_the_request_is_already_done() -> None:
    ended = making_samples(state=State.CONTENT_REJECTED, failure=to_failure("prompt_rejected"))
    again = job_commands.report_failure(
        ended, job_id=JOB_ID, code="prompt_rejected", data={}, policy=POLICY
    )
    assert again is ALREADY_DONE


def test_pass_time_before_anything_is_due_is_already_done() -> None:
    event = job_commands.pass_time(a_request(), now=NOW, policy=POLICY)
    assert event is ALREADY_DONE


def test_pass_time_at_a_deadline_ends_the_wait() -> None:
    waiting = a_request(deadline_at=NOW)
    passed = job_commands.pass_time(waiting, now=NOW, policy=POLICY)
    assert isinstance(passed, DeadlinePassed)
    assert passed.failure is not None
    unselected = a_request(state=State.AWAITING_SELECTION, deadline_at=NOW)
    expired = job_commands.pass_time(unselected, now=NOW, policy=POLICY)
    assert isinstance(expired, DeadlinePassed)
    assert expired.failure is None


def test_pass_time_at_a_workers_deadline_is_a_failed_attempt() -> None:
    begun = making_samples(deadline_at=NOW, progress={"percent": 0})
    event = job_commands.pass_time(begun, now=NOW, policy=POLICY)
    assert isinstance(event, AttemptFailed)
    assert event.data["code"] == "model_timeout"


def test_pass_time_of_a_job_that_no_worker_took_queues_it_until_the_dispatch_deadline() -> None:
    queued_at = NOW - POLICY.dispatch_deadline
    untaken = making_samples(deadline_at=NOW, progress=None, due_at=queued_at)
    before = NOW - timedelta(seconds=1)
    event = job_commands.pass_time(replace(untaken, deadline_at=before), now=before, policy=POLICY)
    assert isinstance(event, JobNotTaken)
    event = job_commands.pass_time(untaken, now=NOW, policy=POLICY)
    assert isinstance(event, DeadlinePassed)
    assert event.failure is not None
    assert event.failure["code"] == "dispatch_timeout"


def test_return_job_pauses_longer_the_longer_it_has_waited() -> None:
    def pause(waited: timedelta) -> timedelta:
        request = a_request(
            state=State.PUBLISHING_TO_QUEUE, deadline_at=NOW + POLICY.dispatch_deadline
        )
        now = NOW + waited
        return job_commands.return_job(request, policy=POLICY, now=now, data={}).due_at - now

    assert pause(timedelta(0)) == POLICY.retry_delay
    assert pause(timedelta(seconds=20)) == timedelta(seconds=10)
    assert pause(timedelta(minutes=30)) == timedelta(minutes=1)


def test_pass_time_at_the_end_of_a_lease_returns_the_job() -> None:
    leased = a_request(state=State.PUBLISHING_TO_QUEUE, lease_until=NOW)
    event = job_commands.pass_time(leased, now=NOW, policy=POLICY)
    assert isinstance(event, JobReturned)
    assert event.due_at == NOW


def test_pass_time_at_the_reminder_announces_the_expiry() -> None:
    later = NOW + timedelta(days=3)
    waiting = a_request(state=State.AWAITING_SELECTION, deadline_at=later, remind_at=NOW)
    assert isinstance(job_commands.pass_time(waiting, now=NOW, policy=POLICY), ExpiryNeared)
