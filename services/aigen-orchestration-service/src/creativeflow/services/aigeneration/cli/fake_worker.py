"""A fake worker in place of n8n: takes jobs from RabbitMQ, draws pictures, uploads them and
reports.

For trials without n8n, tests and benchmarks; it can misbehave in the ways that real workers do.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import structlog

from creativeflow.services.aigeneration.adapters.engine.drawing import draw
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Broker,
    Delivery,
    Message,
    Topology,
)
from creativeflow.services.aigeneration.application.worker_reports import ReportKind
from creativeflow.services.aigeneration.cli.options import BEHAVIOURS, Behaviour
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.workers.results_consumer import ROUTES

log = structlog.get_logger(__name__)

_KEYS = {kind: key for key, kind in ROUTES.items()}
_LATE_SECONDS = 3.0


class FakeWorker:
    """Consumes both job queues; reports over HTTP or RabbitMQ."""

    def __init__(
        self,
        settings: Settings,
        *,
        behaviour: Behaviour = "well",
        over: str = "http",
        pictures: bool = True,
        work_seconds: float = 0.0,
        parallel: int = 10,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._behaviour = behaviour
        self._over = over
        self._pictures = pictures
        self._work_seconds = work_seconds
        self._random = random.Random(seed)  # noqa: S311 - a repeatable mixture, no secret
        self._broker = Broker(
            settings.engine_url.get_secret_value(), topology=Topology((), (), ()), name="stand-in"
        )
        self._http = httpx.AsyncClient(timeout=60)
        for queue in (settings.rabbitmq_samples_queue, settings.rabbitmq_final_queue):
            self._broker.consume(queue, self._take, prefetch=parallel)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set."""
        await self._broker.start()
        await stop.wait()
        await self._broker.close()
        await self._http.aclose()

    async def _take(self, delivery: Delivery) -> AckDecision:
        """Handle one job and acknowledge it in any case, because the service decides about
        retries.
        """
        job = orjson.loads(delivery.body)
        behaviour = self._behaviour
        if behaviour == "mixed":
            behaviour = self._random.choice(
                [b for b in BEHAVIOURS if b not in {"late", "never", "crashes"}]
            )
        if behaviour == "crashes":
            return (
                AckDecision.REQUEUE
                if delivery.headers.get("x-delivery-count", 0) < 100  # noqa: PLR2004
                else AckDecision.ACK
            )
        if behaviour == "never":
            return AckDecision.ACK
        if not await self._report(job, ReportKind.STARTED, {}):
            return AckDecision.ACK
        await asyncio.sleep(_LATE_SECONDS if behaviour == "late" else self._work_seconds)
        await _HANDLERS.get(behaviour, FakeWorker.answer_well)(self, job)
        return AckDecision.ACK

    async def answer_well(self, job: dict[str, Any]) -> None:
        """Report the ordered result."""
        await self._report(job, *await self._result(job))

    async def answer_twice(self, job: dict[str, Any]) -> None:
        """Report the same result twice, concurrently."""
        kind, body = await self._result(job)
        await asyncio.gather(self._report(job, kind, body), self._report(job, kind, body))

    async def answer_partially(self, job: dict[str, Any]) -> None:
        """Report two of four samples; a final is complete or missing."""
        kind, body = await self._result(job)
        if kind is ReportKind.SAMPLES:
            body["samples"] = body["samples"][:2]
            body["failures"] = [
                {"index": index, "error_code": "provider_error"} for index in (2, 3)
            ]
        await self._report(job, kind, body)

    async def answer_out_of_order(self, job: dict[str, Any]) -> None:
        """Report the result first, then progress and started again."""
        await self.answer_well(job)
        await self._report(job, ReportKind.PROGRESS, {"percent": 50})
        await self._report(job, ReportKind.STARTED, {})

    async def answer_garbled(self, job: dict[str, Any]) -> None:
        """Report an unreadable result, then the right one."""
        await self._send(ReportKind.SAMPLES, b'{"samples": [', job["callback_token"])
        await self.answer_well(job)

    async def answer_wrong_size(self, job: dict[str, Any]) -> None:
        """Report pictures of the wrong size on the first attempt."""
        kind, body = await self._result(job)
        if job["attempt"] == 1:
            for asset in body.get("samples") or [body["final_asset"]]:
                asset["resolution"] = "999x333"
        await self._report(job, kind, body)

    async def answer_for_the_wrong_job(self, job: dict[str, Any]) -> None:
        """Report another job's id with this job's token, then the right result."""
        kind, body = await self._result(job)
        await self._report({**job, "job_id": job["generation_request_id"]}, kind, body)
        await self._report(job, kind, body)

    async def answer_failing(self, job: dict[str, Any]) -> None:
        """Report a temporary provider error on the first attempt."""
        if job["attempt"] == 1:
            await self._report(
                job, ReportKind.ERROR, {"error_code": "provider_error", "error_message": "stand-in"}
            )
        else:
            await self.answer_well(job)

    async def answer_rejecting(self, job: dict[str, Any]) -> None:
        """Report that the prompt is refused."""
        await self._report(
            job, ReportKind.ERROR, {"error_code": "prompt_rejected", "error_message": "stand-in"}
        )

    async def _result(self, job: dict[str, Any]) -> tuple[ReportKind, dict[str, Any]]:
        used = {"ai_model_used": f"stand-in/{job['model']['name']}", "provider": "stand-in"}
        if job["job_type"] == "final_generation":
            index = (job["selected_sample"] or {}).get("index", 0)
            size = Size.parse(job["final_resolution"])
            return ReportKind.FINAL, used | {
                "final_asset": await self._picture(job, size, index, job["file_format"])
            }
        size = Size.parse(job["sample_resolution"])
        samples = [
            await self._picture(job, size, index, "png") for index in range(job["sample_count"])
        ]
        return ReportKind.SAMPLES, used | {"samples": samples, "failures": []}

    async def _picture(
        self, job: dict[str, Any], size: Size, index: int, file_format: str
    ) -> dict[str, Any]:
        if not self._pictures:
            name = f"{job['job_id']}-{index}"
            return {
                "asset_id": name,
                "url": f"https://pictures.invalid/{name}.{file_format}",
                "resolution": str(size),
                "format": file_format,
                "index": index,
            }
        picture = await asyncio.to_thread(
            draw,
            prompt=job["input_prompt"],
            style=job["style_guidance"] or "",
            tone=job["emotional_tone"] or "",
            industry=job["industry_template"] or "",
            colours=job["color_scheme"],
            seed=f"{job['generation_request_id']}:{job['round']}",
            index=index,
            width=size.width,
            height=size.height,
            file_format=file_format,
            watermark=job["watermark"],
        )
        answer = await self._http.post(
            job["callback_url_asset"],
            params={"job_id": job["job_id"]},
            content=picture.data,
            headers={
                "Authorization": f"Bearer {job['callback_token']}",
                "Content-Type": f"image/{file_format}",
            },
        )
        answer.raise_for_status()
        return {**answer.json(), "index": index}

    async def _report(self, job: dict[str, Any], kind: ReportKind, body: dict[str, Any]) -> bool:
        """Send one report; return False if the service no longer accepts reports for the job."""
        report = {
            "generation_request_id": job["generation_request_id"],
            "job_id": job["job_id"],
            **body,
        }
        if self._over == "rabbitmq":
            report["callback_token"] = job["callback_token"]
        return await self._send(kind, orjson.dumps(report), job["callback_token"], job)

    async def _send(
        self, kind: ReportKind, body: bytes, token: str, job: dict[str, Any] | None = None
    ) -> bool:
        if self._over == "rabbitmq":
            message = Message(
                exchange=self._settings.rabbitmq_topic_exchange,
                routing_key=_KEYS[kind],
                body=body,
                message_id=f"{job['job_id']}.{kind}" if job else "garbled",
                type=kind.value,
                correlation_id=job["generation_request_id"] if job else None,
            )
            await self._broker.publish([message])
            return True
        base = self._settings.public_url or f"http://{self._settings.host}:{self._settings.port}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        for attempt in range(8):
            try:
                answer = await self._http.post(
                    f"{base}/api/v1/n8n-callbacks/{kind}", content=body, headers=headers
                )
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code < 500:  # noqa: PLR2004 - 5xx means: send it again
                return answer.is_success
            await asyncio.sleep(0.2 * 2**attempt)
        return False


JobHandler = Callable[[FakeWorker, dict[str, Any]], Awaitable[None]]

_HANDLERS: dict[str, JobHandler] = {
    "well": FakeWorker.answer_well,
    "late": FakeWorker.answer_well,
    "twice": FakeWorker.answer_twice,
    "partially": FakeWorker.answer_partially,
    "out_of_order": FakeWorker.answer_out_of_order,
    "garbled": FakeWorker.answer_garbled,
    "wrong_size": FakeWorker.answer_wrong_size,
    "for_the_wrong_job": FakeWorker.answer_for_the_wrong_job,
    "fails": FakeWorker.answer_failing,
    "rejects": FakeWorker.answer_rejecting,
}
