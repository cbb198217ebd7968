"""The catalogue: formats, prices, models and problem types."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import CALLERS_ONLY
from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import problems
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import (
    CUSTOM,
    FILE_FORMATS,
    FORMATS,
    SIDE_MAX,
    SIDE_MIN,
    sample_size,
)
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import Strategy
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    Plan,
    credits_text,
    price_final,
    price_samples,
)

router = APIRouter(tags=["catalogue"])

Listing = dict[str, Any]


@router.get(
    "/api/v1/formats",
    summary="List output formats",
    dependencies=[CALLERS_ONLY],
    responses=problems(401),
)
async def list_formats() -> Listing:
    """Return every format with its pixel size, and the limits of Custom."""
    listed = [
        {"name": name, "width": size.width, "height": size.height, "sample": str(sample_size(size))}
        for name, size in FORMATS.items()
    ]
    custom = {"name": CUSTOM, "side_min": SIDE_MIN, "side_max": SIDE_MAX}
    return {"formats": listed, "custom": custom, "file_formats": list(FILE_FORMATS)}


@router.get(
    "/api/v1/prices",
    summary="List prices by plan",
    dependencies=[CALLERS_ONLY],
    responses=problems(401),
)
async def list_prices(request: Request) -> Listing:
    """Return the price of each action on each plan, in credits as decimal text."""
    policy = services_of(request).policy
    return {
        "high_resolution_above": policy.prices.high_resolution_above,
        "plans": [_plan_prices(plan, policy) for plan in PLANS.values()],
    }


@router.get(
    "/api/v1/models", summary="List AI models", dependencies=[CALLERS_ONLY], responses=problems(401)
)
async def list_models(request: Request) -> Listing:
    """Return the models and strategies that a request may name; a surcharge is paid on every plan.

    Without either the service chooses by its routing rules; the timeline and a quote show the
    choice.
    """
    routing = services_of(request).routing()
    return {
        "default": routing.default,
        "strategies": list(Strategy),
        "models": [
            {
                "name": model.name,
                "title": model.title,
                "strategy": model.strategy,
                "provider": model.provider,
                "quality": model.quality,
                "economy": model.economy,
                "speed": model.speed,
                "surcharge": credits_text(model.surcharge),
                "fallbacks": model.fallbacks,
                "stages": [stage for stage in Stage if stage in model.stages],
                "plans": [
                    plan.name for plan in PLANS.values() if model.serves(min(model.stages), plan)
                ],
            }
            for model in routing.models.values()
        ],
    }


@router.get("/problems/{code}", summary="Get a problem type", responses=problems(404))
async def get_problem_type(code: Annotated[str, Path(max_length=100)]) -> Response:
    """Return the description of a problem; its URL is the `type` of problem documents."""
    for found in errors.every_error():
        if found.code == code:
            about = {
                "code": code,
                "title": found.title,
                "status": found.status,
                "meaning": found.__doc__,
            }
            return json_response(
                about | {"what_to_do": found.sentence, "retryable": found.retryable}
            )
    raise errors.NotFoundError


def _plan_prices(plan: Plan, policy: Policy) -> Listing:
    above = policy.prices.high_resolution_above
    samples = price_samples(plan, policy.prices)
    standard = price_final(plan, policy.prices, longest_side=above)
    high = price_final(plan, policy.prices, longest_side=above + 1)
    return {
        "plan": plan.name,
        "title": plan.title,
        "samples": credits_text(samples.amount),
        "final": credits_text(standard.amount),
        "final_high_resolution": credits_text(high.amount) if plan.high_resolution else None,
        "monthly_generations": policy.free_generations if plan.monthly_generations else None,
        "brand_kit": plan.brand_kit,
        "watermark": plan.watermark,
    }
