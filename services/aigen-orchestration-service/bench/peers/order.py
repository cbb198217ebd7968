"""What is ordered and what a worker makes of it: the same bodies, model, prices and pictures for
every contestant.
"""

import os
from typing import Any

import orjson

from bench.load import post
from creativeflow.services.aigeneration.api.schemas.generations import CreateRequest, SelectSample

__all__ = ["CreateRequest", "SelectSample"]

PATH = "/api/v1/generation-requests"
USERS = 1_000
FUNDS = 10_000_000
"""What every user has before a run; amounts in 1/100 credit."""
SAMPLES_PRICE = 25
FINAL_PRICE = 100
STUB_SECONDS = float(os.environ.get("BENCH_STUB_SECONDS", "0"))
"""How long the stub takes for a job, where it should take any time."""


def user(number: int) -> str:
    """The name of one of the users."""
    return f"user-{number % USERS}"


def create(number: int) -> bytes:
    """The bytes of one user's order; the body is the one `make bench` uses."""
    body = {
        "user_id": user(number),
        "input_prompt": "A lighthouse at dawn, calm sea, first light on the rocks",
        "output_format": "InstagramPost_1x1",
        "emotional_tone": "calm",
        "color_scheme": ["#0b3954", "#ff6663"],
        "style_guidance": "minimal, geometric, generous space",
        "industry_template": "luxury",
    }
    return post(PATH, orjson.dumps(body))


def select(request_id: str, sample_id: str) -> bytes:
    """The bytes of a selection."""
    return post(
        f"{PATH}/{request_id}/select-sample", orjson.dumps({"selected_sample_id": sample_id})
    )


def four_samples(request_id: str) -> list[dict[str, Any]]:
    """What the stub delivers at the first stage."""
    return [_asset(request_id, "512x512", index) for index in range(4)]


def final(request_id: str) -> dict[str, Any]:
    """What the stub delivers at the second stage."""
    return _asset(request_id, "1080x1080", 0)


def event(
    kind: str, request_id: str, user_id: str, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """A lifecycle event; a peer's is as long as what the driver needs, ours carries more."""
    return {
        "eventType": kind,
        "userId": user_id,
        "data": {"generation_request_id": request_id, "samples": samples},
    }


SAMPLES_READY = "generation.samples_ready"
COMPLETED = "generation.completed"


def _asset(request_id: str, resolution: str, index: int) -> dict[str, Any]:
    name = f"{request_id}-{resolution}-{index}"
    url = f"https://pictures.invalid/{name}.png"
    return {"asset_id": name, "url": url, "resolution": resolution, "format": "png", "index": index}
