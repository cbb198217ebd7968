"""Jobs for n8n over RabbitMQ: the job message, published with confirms."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Broker,
    Message,
    PublishOutcome,
)
from creativeflow.services.aigeneration.domain.formats import sample_size
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest, iso
from creativeflow.services.aigeneration.kit.legacy_field_names import older_job
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from creativeflow.services.aigeneration.ports import Publication, PublicationOutcome

SCHEMA = "creativeflow.generation.job/1"

_OUTCOMES = {
    PublishOutcome.CONFIRMED: PublicationOutcome.ACCEPTED,
    PublishOutcome.RETURNED: PublicationOutcome.REFUSED,
    PublishOutcome.REFUSED: PublicationOutcome.REFUSED,
    PublishOutcome.LOST: PublicationOutcome.UNKNOWN,
}


class RabbitMQEngine:
    """The Engine port on RabbitMQ: persistent, mandatory, confirmed."""

    def __init__(
        self,
        broker: Broker,
        *,
        exchange: str,
        routing_keys: Mapping[Stage, str],
        secrets: CallbackSecrets,
        public_url: str,
        policy: Policy,
        now: Callable[[], datetime],
        older_names: bool = False,
    ) -> None:
        self._broker = broker
        self._exchange = exchange
        self._routing_keys = routing_keys
        self._secrets = secrets
        self._public_url = public_url.rstrip("/")
        self._policy = policy
        self._now = now
        self._older_names = older_names

    @property
    def ready(self) -> bool:
        """Return whether the broker is connected."""
        return self._broker.connected

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Publish all jobs and wait for their confirms together."""
        publications = await self._broker.publish([self._message(request) for request in jobs])
        return [Publication(_OUTCOMES[found.outcome], found.reason) for found in publications]

    def _message(self, request: GenerationRequest) -> Message:
        headers = {"traceparent": request.traceparent} if request.traceparent else {}
        return Message(
            exchange=self._exchange,
            routing_key=self._routing_keys[request.stage],
            body=self.encode(request),
            message_id=str(request.job_id),
            correlation_id=str(request.id),
            type=SCHEMA,
            headers=headers,
        )

    def encode(self, request: GenerationRequest) -> bytes:
        """Return the encoded job message."""
        job = self.job(request)
        return orjson.dumps(older_job(job) if self._older_names else job)

    def job(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the job message (docs/asyncapi.yaml), which has everything that a worker needs."""
        assert request.job_id is not None  # noqa: S101 - TRANSITIONS gives a job to every request that is leased
        route = request.route or {"provider": "default", "strategy": "quality"}
        callbacks = f"{self._public_url}/api/v1/n8n-callbacks"
        return {
            "schema": SCHEMA,
            "job_id": str(request.job_id),
            "generation_request_id": str(request.id),
            "round": request.round,
            "attempt": request.attempt,
            "user_id": request.user_id,
            "project_id": request.project_id,
            "user_context": {"tier": request.plan, "locale": request.brief.get("locale")},
            "dimensions": {"width": request.dimensions.width, "height": request.dimensions.height},
            "model": {
                "provider": route["provider"],
                "name": request.model,
                "strategy": route["strategy"],
            },
            "watermark": request.terms.watermark,
            "deadline": iso(self._now() + self._policy.work(request.stage)),
            "callback_url_started": f"{callbacks}/started",
            "callback_url_progress": f"{callbacks}/progress",
            "callback_url_sample_result": f"{callbacks}/sample-result",
            "callback_url_final_result": f"{callbacks}/final-result",
            "callback_url_error": f"{callbacks}/error",
            "callback_url_asset": f"{callbacks}/assets",
            "callback_token": self._secrets.token(request.job_id),
            **_brief(request),
            **(self._samples(request) if request.stage is Stage.SAMPLES else _final(request)),
        }

    def _samples(self, request: GenerationRequest) -> dict[str, Any]:
        return {
            "job_type": "sample_generation" if request.round == 1 else "sample_regeneration",
            "sample_count": self._policy.sample_count,
            "sample_resolution": str(sample_size(request.dimensions)),
            "selected_sample": None,
            "final_resolution": None,
            "file_format": request.file_format,
        }


def _brief(request: GenerationRequest) -> dict[str, Any]:
    brief = request.brief
    return {
        "input_prompt": brief["input_prompt"],
        "style_guidance": brief.get("style_guidance"),
        "output_format": brief["output_format"],
        "brand_kit_id": brief.get("brand_kit_id"),
        "uploaded_image_references": brief.get("uploaded_image_references", []),
        "target_platform_hints": brief.get("target_platform_hints", []),
        "emotional_tone": brief.get("emotional_tone"),
        "industry_template": brief.get("industry_template"),
        "cultural_adaptation_parameters": brief.get("cultural_adaptation_parameters", {}),
        "color_scheme": brief.get("color_scheme", []),
    }


def _final(request: GenerationRequest) -> dict[str, Any]:
    selected = next(
        (s for s in request.samples if s["asset_id"] == request.selected_sample_id), None
    )
    return {
        "job_type": "final_generation",
        "sample_count": 0,
        "sample_resolution": None,
        "selected_sample": selected,
        "final_resolution": str(request.final_size),
        "file_format": request.file_format,
    }
