"""Worker reports: valid, partial, repeated, late, invalid, for another job, with a wrong token."""

import asyncio
import base64
import time
from uuid import UUID, uuid4

import orjson
import pytest

from creativeflow.services.aigeneration.application.worker_reports import ReportKind, Signature
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.kit.clock import uuid7
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from tests.support.app import ServiceUnderTest, a_final, four_samples


def body_of(job, **more) -> bytes:
    said = {"generation_request_id": str(job.id), "job_id": str(job.job_id), **more}
    return orjson.dumps({name: value for name, value in said.items() if value is not None})


async def report(
    test_app: ServiceUnderTest, kind: ReportKind, job, token: str | None = None, **more
):
    token = token or test_app.service.secrets.token(job.job_id)
    return await test_app.service.worker_reports.receive(kind, body_of(job, **more), token=token)


async def test_reports_complete_lifecycle_ends_completed(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    await report(test_app, ReportKind.STARTED, job)
    half = await report(
        test_app,
        ReportKind.PROGRESS,
        job,
        percent=50,
        step="two of four",
        samples=four_samples(job)[:2],
    )
    assert half.progress == {"percent": 50, "step": "two of four"}
    assert len(half.samples) == 2
    shown = await report(
        test_app,
        ReportKind.SAMPLES,
        job,
        samples=four_samples(job),
        ai_model_used="m",
        processing_time_ms=9,
    )
    assert (shown.state, shown.ai_model_used, shown.progress) == (
        State.AWAITING_SELECTION,
        "m",
        None,
    )
    await test_app.select(shown)
    job = await test_app.next_job()
    await report(test_app, ReportKind.STARTED, job)
    done = await report(test_app, ReportKind.FINAL, job, final_asset=a_final(job))
    assert done.state is State.COMPLETED
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready", "final_asset_ready"]


async def test_report_result_repeated_changes_nothing(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    first, second = await asyncio.gather(
        *(report(test_app, ReportKind.SAMPLES, job, samples=four_samples(job)) for _ in range(2))
    )
    assert first.version == second.version
    await test_app.select(first)
    job = await test_app.next_job()
    done = await report(test_app, ReportKind.FINAL, job, final_asset=a_final(job))
    assert (
        await report(test_app, ReportKind.FINAL, job, final_asset=a_final(job))
    ).version == done.version


async def test_report_started_and_progress_after_the_result_are_stale(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    await report(test_app, ReportKind.SAMPLES, job, samples=four_samples(job))
    for kind in (ReportKind.STARTED, ReportKind.PROGRESS):
        with pytest.raises(errors.StaleResultError):
            await report(test_app, kind, job)


async def test_report_partial_samples_are_delivered_with_failures(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    failures = [{"index": 3, "error_code": "provider_error", "error_message": "secret stack trace"}]
    shown = await report(
        test_app, ReportKind.SAMPLES, job, samples=four_samples(job)[:3], failures=failures
    )
    assert shown.state is State.AWAITING_SELECTION
    assert [sample["index"] for sample in shown.samples] == [0, 1, 2]
    assert shown.sample_failures[0]["index"] == 3
    assert "secret" not in str(shown.sample_failures)


async def test_report_samples_of_wrong_size_fail_and_none_valid_retries(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    wrong = [{**sample, "resolution": "300x900"} for sample in four_samples(job)]
    again = await report(test_app, ReportKind.SAMPLES, job, samples=wrong)
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert again.job_id != job.job_id
    test_app.clock.advance(minutes=1)
    job = await test_app.next_job()
    mixed = [*wrong[:1], *four_samples(job)[1:]]
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=mixed)
    assert [failure["error_code"] for failure in shown.sample_failures] == ["invalid_output"]


@pytest.mark.parametrize("change", [{"resolution": "1080x1081"}, {"format": "webp"}])
async def test_report_final_of_wrong_size_fails_the_attempt(
    test_app: ServiceUnderTest, change: dict[str, str]
) -> None:
    await test_app.select(await test_app.with_samples())
    job = await test_app.next_job()
    again = await report(test_app, ReportKind.FINAL, job, final_asset={**a_final(job), **change})
    assert (again.state, again.attempt) == (State.PENDING, 2)
    test_app.clock.advance(minutes=1)
    assert (await test_app.deliver(await test_app.next_job())).state is State.COMPLETED


async def test_report_of_an_earlier_attempt_is_recorded_and_not_applied(
    test_app: ServiceUnderTest,
) -> None:
    request = await test_app.submitted()
    first = await test_app.next_job()
    await report(test_app, ReportKind.ERROR, first, error_code="model_timeout", error_message="x")
    test_app.clock.advance(minutes=1)
    second = await test_app.next_job()
    with pytest.raises(errors.StaleResultError):
        await report(test_app, ReportKind.SAMPLES, first, samples=four_samples(first))
    assert (await test_app.look(request)).state is State.PROCESSING_SAMPLES
    assert (await test_app.events(request)).count("stale_result") == 1
    await test_app.deliver(second)


async def test_report_before_the_broker_confirm_is_accepted(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    leased = (await test_app.jobs.lease(request.stage, window=10, most=10)).jobs
    shown = await test_app.deliver(leased[0])
    assert shown.state is State.AWAITING_SELECTION
    from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome  # noqa: PLC0415

    await test_app.jobs.published([(leased[0], Publication(PublicationOutcome.ACCEPTED))])
    assert (await test_app.look(request)).state is State.AWAITING_SELECTION


async def test_report_of_the_wrong_stage_is_refused(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    with pytest.raises(errors.InvalidRequestError) as refused:
        await report(test_app, ReportKind.FINAL, job, final_asset={**four_samples(job)[0]})
    assert refused.value.errors[0]["code"] == "wrong_stage"


async def test_report_with_any_other_token_is_refused(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    other = test_app.service.secrets.token(uuid7())
    forged = CallbackSecrets(["another-secret"]).token(job.job_id)
    for token in (other, forged, "", "x" * 500, "ÿ"):
        with pytest.raises(errors.InvalidCredentialsError):
            await test_app.service.worker_reports.receive(
                ReportKind.STARTED, body_of(job), token=token
            )
    with pytest.raises(errors.InvalidCredentialsError):
        await test_app.service.worker_reports.receive(ReportKind.STARTED, body_of(job))
    await test_app.service.worker_reports.receive(
        ReportKind.STARTED, body_of(job, callback_token=test_app.service.secrets.token(job.job_id))
    )


async def test_report_with_valid_signature_is_accepted(make_test_app) -> None:
    from pydantic import SecretStr  # noqa: PLC0415

    key = base64.b64encode(b"k" * 32).decode()
    test_app = make_test_app(callback_secret=SecretStr(f"whsec_{key}"), allow_missing_job_id=True)
    test_app.clock.set(_now())
    await test_app.submitted()
    job = await test_app.next_job()
    body = body_of(job, job_id=None, samples=four_samples(job))
    timestamp = int(test_app.clock().timestamp())
    right = test_app.service.secrets.sign("m1", timestamp, body)
    for signature in (
        Signature(message_id="m1", timestamp=str(timestamp), signatures="v1,AAAA"),
        Signature(message_id="m2", timestamp=str(timestamp), signatures=right),
        Signature(message_id="m1", timestamp=str(timestamp - 301), signatures=right),
        Signature(message_id="m1", timestamp="yesterday", signatures=right),
    ):
        with pytest.raises(errors.InvalidCredentialsError):
            await test_app.service.worker_reports.receive(
                ReportKind.SAMPLES, body, signature=signature
            )
    signature = Signature(message_id="m1", timestamp=str(timestamp), signatures=f"v1,AAAA {right}")
    shown = await test_app.service.worker_reports.receive(
        ReportKind.SAMPLES, body, signature=signature
    )
    assert shown.state is State.AWAITING_SELECTION
    await test_app.check()


async def test_report_unknown_request_or_unreadable_is_refused(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    token = test_app.service.secrets.token(job.job_id)
    unknown = orjson.dumps({"generation_request_id": str(uuid4()), "job_id": str(job.job_id)})
    with pytest.raises(errors.NotFoundError):
        await test_app.service.worker_reports.receive(ReportKind.STARTED, unknown, token=token)
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"job_id": 7}',
        body_of(job, samples="none"),
        body_of(job, samples=[{}]),
    ):
        with pytest.raises((errors.InvalidRequestError, errors.InvalidJsonError)):
            await test_app.service.worker_reports.receive(ReportKind.SAMPLES, body, token=token)
    with pytest.raises(errors.InvalidRequestError):
        await test_app.service.worker_reports.receive(
            ReportKind.STARTED, body_of(job, job_id=None), token=token
        )


async def test_report_error_is_retried_then_fails_with_a_message(
    test_app: ServiceUnderTest,
) -> None:
    request = await test_app.submitted()
    for attempt in (1, 2, 3):
        job = await test_app.next_job()
        assert job.attempt == attempt
        await report(
            test_app,
            ReportKind.ERROR,
            job,
            error_code="model_unavailable",
            error_message="GPU 7 on fire",
        )
        test_app.clock.advance(minutes=1)
    failed = await test_app.look(request)
    assert failed.failure is not None
    assert failed.failure["code"] == "model_unavailable"
    assert failed.failure["fault"] == "provider"
    assert "GPU" not in str(failed.failure)
    assert "retry" in failed.failure["next_steps"]


async def test_report_error_last_attempt_uses_the_fallback_model(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    used = []
    for _ in range(3):
        job = await test_app.next_job()
        used.append(job.model)
        await test_app.fail(job)
        test_app.clock.advance(minutes=1)
    assert used == ["standard", "standard", "fast"]


async def test_retry_creates_a_new_request_with_retry_of(test_app: ServiceUnderTest) -> None:
    from creativeflow.services.aigeneration.application.generations import Caller  # noqa: PLC0415

    request = await test_app.submitted()
    with pytest.raises(errors.InvalidStateError):
        await test_app.generations.retry(request.id, Caller(name="t"), {}, correlation_id="c")
    await test_app.fail(await test_app.next_job(), "invalid_input")
    reply = await test_app.generations.retry(
        request.id, Caller(name="t"), {"input_prompt": "a tower"}, correlation_id="c"
    )
    assert reply.request is not None
    assert reply.request.retry_of == request.id
    assert reply.request.brief["input_prompt"] == "a tower"
    assert isinstance(reply.request.id, UUID)
    assert (await test_app.look(request)).state is State.FAILED


def _now():
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(int(time.time()), UTC)
