"""Dead letters and external messages: bounded, parsed defensively, and counted only with the job's
token.
"""

import time
from typing import Any
from uuid import UUID

import orjson
import pytest

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Delivery,
    Message,
    PublishOutcome,
    PublishResult,
)
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.json_input import parse_json
from creativeflow.services.aigeneration.workers.results_consumer import (
    UNPROVEN_KEPT,
    DeadLetterConsumer,
    ResultsConsumer,
)
from tests.support.app import ServiceUnderTest

DIED = [{"queue": "jobs", "reason": "delivery_limit"}]


@pytest.fixture(autouse=True)
async def _given_up(test_app: ServiceUnderTest):
    """Remove messages that a test parked on purpose, before the invariants are checked."""
    yield
    await test_app.database.execute("DELETE FROM outbox WHERE topic = 'dead_letter'")


class Buried:
    """A broker that confirms and records published messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def publish(self, messages: list[Message]) -> list[PublishResult]:
        self.messages += messages
        return [PublishResult(PublishOutcome.CONFIRMED)] * len(messages)


def delivery(body: bytes, headers: Any = None, **fields: Any) -> Delivery:
    known = {
        "routing_key": "ai.event.started",
        "exchange": "x",
        "redelivered": False,
        "headers": headers or {},
    }
    return Delivery(
        **{
            "body": body,
            "message_id": None,
            "correlation_id": None,
            "type": None,
            **known,
            **fields,
        }
    )


def dead_letters(test_app: ServiceUnderTest) -> DeadLetterConsumer:
    return DeadLetterConsumer(
        test_app.jobs,
        test_app.service.outbox,
        job_queues={"jobs"},
        proves=test_app.service.secrets.opens,
        now=test_app.clock,
    )


def job_body(job: GenerationRequest, token: str | None) -> bytes:
    return orjson.dumps(
        {"generation_request_id": job.id, "job_id": job.job_id, "callback_token": token}
    )


async def parked(test_app: ServiceUnderTest) -> int:
    return await test_app.database.fetchval(
        "SELECT count(*) FROM outbox WHERE topic = 'dead_letter'"
    )


async def test_dead_job_with_its_token_is_a_failed_attempt(test_app: ServiceUnderTest) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    assert job.job_id is not None
    body = job_body(job, test_app.service.secrets.token(job.job_id))
    assert await dead_letters(test_app).handle(delivery(body, {"x-death": DIED})) is AckDecision.ACK
    assert (await test_app.look(job)).attempt == 2


@pytest.mark.parametrize("token", [None, "", "wrong"])
async def test_dead_job_without_its_token_changes_nothing_and_is_parked(
    test_app: ServiceUnderTest, token: str | None
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    other = test_app.service.secrets.token(UUID(int=7))
    for body in (job_body(job, token), job_body(job, other)):
        await dead_letters(test_app).handle(delivery(body, {"x-death": DIED}))
    assert (await test_app.look(job)).attempt == 1
    assert await parked(test_app) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x-death": "text"}},
        {"headers": {"x-death": ["text", None, 7]}},
        {"headers": {"x-death": {"a": 1}}},
        {"headers": {"x-death": [{"queue": ["jobs"], "reason": b"\x00"}]}},
        {"headers": {"x-aigen-reason": "nul \x00 in a header"}},
        {"headers": {"x-aigen-reason": 7}},
        {"routing_key": "nul\x00", "correlation_id": "nul\x00", "message_id": "half \ud83d"},
        {"body": b"\x00\xff" * 50_000},
        {"body": b"[" * 100_000},
    ],
)
async def test_poison_dead_letter_is_parked_and_the_next_one_is_handled(
    test_app: ServiceUnderTest, fields: dict[str, Any]
) -> None:
    consumer = dead_letters(test_app)
    assert await consumer.handle(delivery(**({"body": b"{}"} | fields))) is AckDecision.ACK
    assert await parked(test_app) == 1
    assert await consumer.handle(delivery(b"{}")) is AckDecision.ACK


async def test_unproven_dead_letters_are_kept_up_to_a_bound(test_app: ServiceUnderTest) -> None:
    consumer = dead_letters(test_app)
    for _ in range(UNPROVEN_KEPT + 5):
        await consumer.handle(delivery(b"garbage"))
    assert await parked(test_app) == UNPROVEN_KEPT


async def test_message_of_30_megabytes_is_buried_without_being_parsed(
    test_app: ServiceUnderTest,
) -> None:
    buried = Buried()
    consumer = ResultsConsumer(test_app.service.worker_reports, buried, dead_letter_exchange="dead")  # type: ignore[arg-type]
    body = b"[" * (30 * 1024 * 1024)
    began = time.process_time()
    assert await consumer.handle(delivery(body)) is AckDecision.ACK
    await dead_letters(test_app).handle(delivery(body))
    assert time.process_time() - began < 0.5
    assert "too_large" in buried.messages[0].headers["x-aigen-reason"]


@pytest.mark.parametrize(("depth", "allowed"), [(20, True), (21, False)])
def test_depth_is_counted_exactly_and_not_inside_strings(depth: int, allowed: bool) -> None:
    body = (
        b'{"a":[' * (depth // 2)
        + b"[" * (depth % 2)
        + b'"[[{{\\"[[["'
        + b"]" * (depth % 2)
        + b"]}" * (depth // 2)
    )
    if allowed:
        assert parse_json(body)
    else:
        with pytest.raises(errors.InvalidJsonError):
            parse_json(body)
