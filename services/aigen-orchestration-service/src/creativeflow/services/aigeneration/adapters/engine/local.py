"""The local engine: draws pictures in this process and reports them like a worker.

A marker in the prompt such as `[[partial]]`, or the setting `AIGEN_LOCAL_FAULT`, injects any
failure that a provider can have.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.adapters.engine.drawing import Drawing, draw
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import Size, sample_size
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import Asset, GenerationRequest
from creativeflow.services.aigeneration.kit.supervision import SupervisedTask, TaskStatus
from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome

log = structlog.get_logger(__name__)

WORKER_ERRORS = (
    "slow",
    "partial",
    "transient",
    "down",
    "unsafe",
    "rejected",
    "invalid",
    "garbage",
    "silence",
)
"""Slow: 2 s per picture. Partial: two of four samples fail. Transient: the first attempt fails.
Down: every attempt fails. Unsafe: the output does not pass moderation. Rejected, invalid: the
prompt or the input is refused. Garbage: pictures of the wrong size. Silence: no report after
the start, until the deadline.
"""

_ERRORS = {
    "down": "model_unavailable",
    "unsafe": "unsafe_output",
    "rejected": "prompt_rejected",
    "invalid": "invalid_input",
}
_SLOW_SECONDS = 2.0
_QUEUE_MAX = 100_000

Report = Callable[[str, dict[str, Any], UUID], Awaitable[None]]
"""Submits a worker's report: kind, body, job id."""


class LocalEngine:
    """The Engine port without a broker: jobs wait in memory; jobs lost in a crash are retried at
    their deadline.
    """

    def __init__(
        self,
        assets: AssetStore,
        report: Report,
        *,
        workers: int = 2,
        fault: str = "",
        samples: int = 4,
    ) -> None:
        self._assets = assets
        self._report = report
        self._fault = fault
        self._samples = samples
        self._jobs: asyncio.Queue[GenerationRequest] = asyncio.Queue(_QUEUE_MAX)
        self._workers = [
            SupervisedTask(f"local-worker-{n}", self._work) for n in range(1, workers + 1)
        ]

    async def start(self) -> None:
        """Start the workers."""
        for worker in self._workers:
            worker.start()

    async def close(self) -> None:
        """Stop the workers; running jobs are abandoned and retried at their deadline."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    @property
    def tasks(self) -> list[TaskStatus]:
        """The status of each worker."""
        return [worker.status for worker in self._workers]

    @property
    def ready(self) -> bool:
        """Return whether the queue has room."""
        return self._jobs.qsize() < _QUEUE_MAX // 2

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Queue jobs; refuse them if the queue is full."""
        return [self._publish(job) for job in jobs]

    def _publish(self, job: GenerationRequest) -> Publication:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            return Publication(PublicationOutcome.REFUSED, "the local engine has too many jobs")
        return Publication(PublicationOutcome.ACCEPTED)

    async def _work(self) -> None:
        while True:
            request = await self._jobs.get()
            try:
                await self._do(request)
            except (errors.StaleResultError, errors.NotFoundError):
                log.info("local_job_stopped", generation_request_id=str(request.id))
            except Exception:
                log.exception("local_job_failed", generation_request_id=str(request.id))

    async def _do(self, request: GenerationRequest) -> None:
        fault = self._fault_of(request)
        await self._say(request, "started")
        if fault == "silence":
            return
        if fault in _ERRORS or (fault == "transient" and request.attempt == 1):
            code = _ERRORS.get(fault, "provider_error")
            await self._say(
                request, "error", error_code=code, error_message="asked for by a marker"
            )
        elif request.stage is Stage.SAMPLES:
            await self._make_samples(request, fault)
        else:
            await self._make_final(request, fault)

    async def _make_samples(self, request: GenerationRequest, fault: str) -> None:
        size = Size(999, 333) if fault == "garbage" else sample_size(request.dimensions)
        good: list[Asset] = []
        failures: list[dict[str, Any]] = []
        for index in range(self._samples):
            if fault == "partial" and index % 2:
                failures.append({"index": index, "error_code": "provider_error"})
                continue
            asset = await self._draw(request, size, index, "png", fault)
            good.append(Asset(**{**asset, "index": index}))
            percent = 100 * (index + 1) // self._samples
            await self._say(
                request, "progress", percent=percent, step=f"sample {index + 1}", samples=good[-1:]
            )
        await self._say(
            request,
            "sample-result",
            samples=good,
            failures=failures,
            ai_model_used=f"local/{request.model}",
            provider="local",
        )

    async def _make_final(self, request: GenerationRequest, fault: str) -> None:
        size = Size(333, 999) if fault == "garbage" else request.final_size or request.dimensions
        chosen = next(
            (s for s in request.samples if s["asset_id"] == request.selected_sample_id), None
        )
        index = chosen.get("index", 0) if chosen else 0
        await self._say(request, "progress", percent=30, step="drawing")
        asset = await self._draw(request, size, index, request.file_format, fault)
        await self._say(
            request,
            "final-result",
            final_asset=asset,
            ai_model_used=f"local/{request.model}",
            provider="local",
        )

    async def _draw(
        self, request: GenerationRequest, size: Size, index: int, file_format: str, fault: str
    ) -> Asset:
        if fault == "slow":
            await asyncio.sleep(_SLOW_SECONDS)
        picture = await asyncio.to_thread(_draw_now, request, size, index, file_format)
        return await self._assets.save(picture.data)

    async def _say(self, request: GenerationRequest, kind: str, **body: Any) -> None:
        assert request.job_id is not None  # noqa: S101 - TRANSITIONS gives a job to every request that is leased
        body |= {"generation_request_id": str(request.id), "job_id": str(request.job_id)}
        await self._report(kind, body, request.job_id)

    def _fault_of(self, request: GenerationRequest) -> str:
        prompt = request.brief["input_prompt"].lower()
        return next((fault for fault in WORKER_ERRORS if f"[[{fault}]]" in prompt), self._fault)


def _draw_now(request: GenerationRequest, size: Size, index: int, file_format: str) -> Drawing:
    brief = request.brief
    return draw(
        prompt=brief["input_prompt"],
        style=brief.get("style_guidance", ""),
        tone=brief.get("emotional_tone", ""),
        industry=brief.get("industry_template", ""),
        colours=brief.get("color_scheme", []),
        seed=f"{request.id}:{request.round}",
        index=index,
        width=size.width,
        height=size.height,
        file_format=file_format,
        watermark=request.terms.watermark,
    )
