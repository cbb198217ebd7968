"""Older workflows: jobs and results with older field names, and both kinds of workers at the same
time.
"""

from typing import Any

import orjson
import pytest

from creativeflow.services.aigeneration.adapters.engine.rabbitmq import RabbitMQEngine
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Delivery
from creativeflow.services.aigeneration.application.worker_reports import ReportKind
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.legacy_field_names import (
    JOB,
    RESULT,
    STATUS,
    current_result,
    older_job,
)
from creativeflow.services.aigeneration.workers.results_consumer import DeadLetterConsumer
from tests.support.app import ServiceUnderTest, a_final, four_samples

OLDER = {"field_names": "older"}


def job_message(
    test_app: ServiceUnderTest, request: GenerationRequest, *, older: bool
) -> dict[str, Any]:
    """Return the message of a job as published."""
    engine = RabbitMQEngine(
        None,  # type: ignore[arg-type] - nothing is published
        exchange="x",
        routing_keys={Stage.SAMPLES: "s", Stage.FINAL: "f"},
        secrets=test_app.service.secrets,
        public_url="https://aigen.example",
        policy=test_app.service.policy,
        now=test_app.clock,
        older_names=older,
    )
    found: dict[str, Any] = orjson.loads(engine.encode(request))
    return found


async def report(test_app: ServiceUnderTest, kind: ReportKind, **said: Any) -> GenerationRequest:
    """Send a report of an older workflow, with the job's token in the body."""
    return await test_app.service.worker_reports.receive(kind, orjson.dumps(said))


def named(job: GenerationRequest, test_app: ServiceUnderTest) -> dict[str, Any]:
    """Return the fields of every result under their older names."""
    assert job.job_id is not None
    token = test_app.service.secrets.token(job.job_id)
    return {"generationRequestId": str(job.id), "jobId": str(job.job_id), "callbackToken": token}


# The tables


async def test_older_job_has_the_same_values(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app()
    await test_app.submitted(brand_kit_id=None, emotional_tone="calm")
    job = await test_app.next_job()
    current, older = job_message(test_app, job, older=False), job_message(test_app, job, older=True)
    assert {JOB.get(name, name): value for name, value in current.items()} == older | {
        "deadline": current["deadline"]
    }
    assert older["inputPrompt"] == "a lighthouse"
    assert older["jobId"] == str(job.job_id)
    assert not set(JOB) & set(older)
    assert {name for name in current if "_" in name} == set(JOB)
    await test_app.deliver(job)


async def test_older_job_selected_sample_has_its_older_name(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app()
    request = await test_app.with_samples()
    await test_app.select(request)
    job = await test_app.next_job()
    older = job_message(test_app, job, older=True)
    assert older["selectedSample"]["assetId"] == request.samples[0]["asset_id"]
    assert older["finalResolution"] == "1080x1080"
    await test_app.deliver(job)


def test_older_result_every_field_has_one_name() -> None:
    assert set(STATUS) == {"Completed", "Failed", "ContentRejected", "Processing"}
    assert {
        "generation_request_id",
        "job_id",
        "samples",
        "final_asset",
        "error_code",
        "asset_id",
        "url",
    } <= set(RESULT.values())


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ({"job_id": "j", "samples": []}, "started", {"job_id": "j", "samples": []}),
        ({"jobId": "j"}, "started", {"job_id": "j"}),
        ({"jobId": "j", "status": "Processing"}, "progress", {"job_id": "j"}),
        (
            {"jobId": "j", "status": "Completed", "samples": []},
            "sample-result",
            {"job_id": "j", "samples": []},
        ),
        (
            {"jobId": "j", "status": "Completed", "finalAsset": {"assetId": "a"}},
            "final-result",
            {"job_id": "j", "final_asset": {"asset_id": "a"}},
        ),
        (
            {"jobId": "j", "status": "Failed"},
            "error",
            {"job_id": "j", "error_code": "provider_error"},
        ),
        (
            {"jobId": "j", "status": "Failed", "errorCode": "model_timeout"},
            "error",
            {"job_id": "j", "error_code": "model_timeout"},
        ),
        (
            {"jobId": "j", "status": "ContentRejected"},
            "error",
            {"job_id": "j", "error_code": "prompt_rejected"},
        ),
        ({"jobId": "j", "status": "Danced"}, "started", {"job_id": "j"}),
        ({"status": ["Failed"]}, "started", {"status": ["Failed"]}),
        ("text", "started", "text"),
    ],
)
def test_older_result_kind_follows_from_its_status(value: Any, kind: str, said: Any) -> None:
    assert current_result("started", value) == (kind, said)


def test_older_job_changes_only_names() -> None:
    assert older_job({"schema": "s", "round": 1, "job_id": "j", "selected_sample": None}) == {
        "schema": "s",
        "round": 1,
        "jobId": "j",
        "selectedSample": None,
    }


# Lifecycle


async def test_older_workflow_completes_a_request(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(**OLDER)
    await test_app.grant("user", 125, "payg")
    request = await test_app.submitted()
    job = await test_app.next_job()
    await report(test_app, ReportKind.STARTED, **named(job, test_app))
    assets = [
        {
            "assetId": s["asset_id"],
            "assetUrl": s["url"],
            "resolution": s["resolution"],
            "format": "png",
            "index": n,
        }
        for n, s in enumerate(four_samples(job))
    ]
    shown = await report(
        test_app,
        ReportKind.SAMPLES,
        **named(job, test_app),
        status="Completed",
        sampleAssets=assets,
        aiModelUsed="old/1",
    )
    assert (shown.state, shown.ai_model_used) == (State.AWAITING_SELECTION, "old/1")
    await test_app.select(await test_app.look(request))
    job = await test_app.next_job()
    final = a_final(job)
    asset = {
        "assetId": final["asset_id"],
        "url": final["url"],
        "resolution": final["resolution"],
        "format": "png",
    }
    done = await report(
        test_app, ReportKind.SAMPLES, **named(job, test_app), status="Completed", finalAsset=asset
    )
    assert done.state is State.COMPLETED
    await test_app.drain()
    assert await test_app.balance() == 0


async def test_older_failures_follow_the_worker_errors(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(**OLDER)
    await test_app.submitted()
    job = await test_app.next_job()
    failed = await report(
        test_app,
        ReportKind.SAMPLES,
        **named(job, test_app),
        status="Failed",
        errorCode="model_timeout",
    )
    assert (failed.state, failed.attempt) == (State.PENDING, 2)
    test_app.clock.advance(minutes=1)
    job = await test_app.next_job()
    rejected = await report(
        test_app, ReportKind.ERROR, **named(job, test_app), status="ContentRejected"
    )
    assert rejected.state is State.CONTENT_REJECTED


async def test_older_setting_accepts_current_names(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(**OLDER)
    await test_app.submitted()
    job = await test_app.next_job()
    assert job.job_id is not None
    body = {
        "generation_request_id": str(job.id),
        "job_id": str(job.job_id),
        "samples": four_samples(job),
        "callback_token": test_app.service.secrets.token(job.job_id),
    }
    assert (await report(test_app, ReportKind.SAMPLES, **body)).state is State.AWAITING_SELECTION


async def test_older_names_without_the_setting_are_refused(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    with pytest.raises(errors.InvalidRequestError) as refused:
        await report(test_app, ReportKind.STARTED, **named(job, test_app))
    assert "/generation_request_id" in {fault["pointer"] for fault in refused.value.errors}
    await test_app.deliver(job)


async def test_older_result_with_wrong_token_is_refused(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(**OLDER)
    await test_app.submitted()
    job = await test_app.next_job()
    with pytest.raises(errors.InvalidCredentialsError):
        await report(
            test_app, ReportKind.STARTED, **named(job, test_app) | {"callbackToken": "wrong"}
        )
    await test_app.deliver(job)


async def test_older_job_dead_lettered_fails_the_attempt(make_test_app) -> None:
    test_app: ServiceUnderTest = make_test_app(**OLDER)
    request = await test_app.submitted()
    job = await test_app.next_job()
    consumer = DeadLetterConsumer(
        test_app.jobs,
        test_app.service.outbox,
        job_queues={"q"},
        now=test_app.clock,
        proves=test_app.service.secrets.opens,
    )
    body = orjson.dumps(job_message(test_app, job, older=True))
    await consumer.handle(a_dead(body))
    assert (await test_app.look(request)).attempt == 2


def a_dead(body: bytes) -> Delivery:
    """Return a job that the broker dead-lettered."""
    fields = {
        "body": body,
        "routing_key": "k",
        "headers": {"x-death": [{"queue": "q", "reason": "delivery_limit"}]},
    }
    return Delivery(**{**dict.fromkeys(Delivery.__dataclass_fields__), **fields})  # type: ignore[arg-type]
