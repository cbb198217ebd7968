"""One suite for every engine behind the Engine port: jobs are accepted, refused or unknown."""

import asyncio
from pathlib import Path
from typing import Self
from uuid import uuid4

import orjson
import pytest

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.adapters.engine.local import LocalEngine
from creativeflow.services.aigeneration.adapters.engine.rabbitmq import RabbitMQEngine
from creativeflow.services.aigeneration.adapters.images.inspection import PictureDecoder
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Binding,
    Broker,
    Delivery,
    Exchange,
    Queue,
    Topology,
)
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from creativeflow.services.aigeneration.ports import PublicationOutcome
from tests.support.builders import a_request, four_samples
from tests.support.services import RABBITMQ

SECRETS = CallbackSecrets(["a-secret-of-the-tests"])


def a_final_job() -> GenerationRequest:
    return a_request(
        stage=Stage.FINAL,
        samples=four_samples(),
        selected_sample_id="sample-2",
        final_size=Size(2048, 2048),
    )


async def test_local_engine_publish_reports_each_job(tmp_path: Path) -> None:
    reported: asyncio.Queue[str] = asyncio.Queue()

    async def report(kind: str, _body: object, _job_id: object) -> None:
        reported.put_nowait(kind)

    decoder = PictureDecoder()
    engine = LocalEngine(AssetStore(tmp_path, public_url="http://x", decoder=decoder), report)
    assert engine.ready
    assert [found.outcome for found in await engine.publish([a_request()])] == [
        PublicationOutcome.ACCEPTED
    ]
    await engine.start()
    try:
        kinds = [await asyncio.wait_for(reported.get(), 20) for _ in range(6)]
    finally:
        await engine.close()
        await decoder.close()
    assert kinds == ["started", *["progress"] * 4, "sample-result"]


class Taken:
    """An engine on the real broker, with the jobs that arrive."""

    def __init__(self, *, bound: bool = True) -> None:
        self.name = f"test.engine.{uuid4().hex[:8]}"
        self.jobs: asyncio.Queue[Delivery] = asyncio.Queue()
        bindings = (
            (Binding(self.name, self.name, "samples"), Binding(self.name, self.name, "final"))
            if bound
            else ()
        )
        topology = Topology(
            (Exchange(self.name, "direct"),), (Queue(self.name, {"x-expires": 60_000}),), bindings
        )
        self.broker = Broker(RABBITMQ, topology=topology)
        self.broker.consume(self.name, self._take, prefetch=10)
        self.engine = RabbitMQEngine(
            self.broker,
            exchange=self.name,
            routing_keys={stage: stage.value for stage in Stage},
            secrets=SECRETS,
            public_url="https://aigen.example/",
            policy=Policy(),
            now=now,
        )

    async def __aenter__(self) -> Self:
        await self.broker.start()
        assert await self.broker.wait_connected(10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()

    async def _take(self, delivery: Delivery) -> AckDecision:
        self.jobs.put_nowait(delivery)
        return AckDecision.ACK


async def test_rabbitmq_engine_job_has_every_field() -> None:
    request = a_request(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    async with Taken() as taken:
        publications = await taken.engine.publish([request, a_final_job()])
        first, second = [await asyncio.wait_for(taken.jobs.get(), 10) for _ in range(2)]
    assert [found.outcome for found in publications] == [PublicationOutcome.ACCEPTED] * 2
    assert (first.message_id, first.correlation_id) == (str(request.job_id), str(request.id))
    assert first.headers["traceparent"] == request.traceparent
    job = orjson.loads(first.body)
    assert request.job_id is not None
    assert SECRETS.opens(job["callback_token"], request.job_id)
    assert (
        job["callback_url_sample_result"]
        == "https://aigen.example/api/v1/n8n-callbacks/sample-result"
    )
    assert (job["job_type"], job["sample_count"], job["sample_resolution"]) == (
        "sample_generation",
        4,
        "512x512",
    )
    final = orjson.loads(second.body)
    assert (final["job_type"], final["final_resolution"]) == ("final_generation", "2048x2048")
    assert final["selected_sample"]["asset_id"] == "sample-2"


async def test_rabbitmq_engine_unroutable_job_is_refused() -> None:
    async with Taken(bound=False) as taken:
        (publication,) = await taken.engine.publish([a_request()])
    assert publication.outcome is PublicationOutcome.REFUSED


async def test_rabbitmq_engine_broker_away_is_unknown_and_not_ready() -> None:
    taken = Taken()
    assert not taken.engine.ready
    (publication,) = await taken.engine.publish([a_request()])
    assert publication.outcome is PublicationOutcome.UNKNOWN


@pytest.mark.parametrize("job", [a_request(), a_final_job()], ids=["samples", "final"])
def test_rabbitmq_engine_largest_job_stays_below_20_kilobytes(job: GenerationRequest) -> None:
    from dataclasses import replace  # noqa: PLC0415

    from creativeflow.services.aigeneration.api.schemas.generations import BRIEF_MAX_BYTES  # noqa: PLC0415

    largest = replace(job, brief={**job.brief, "input_prompt": "x" * BRIEF_MAX_BYTES})
    assert len(Taken().engine.encode(largest)) < 20_480
