"""Builders of valid domain objects, with changes per test."""

from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast
from uuid import UUID

from creativeflow.services.aigeneration.domain.events import EVENTS, DomainEvent, Submitted
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Event, Origin, Stage, State
from creativeflow.services.aigeneration.domain.pricing import Funding
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    Brief,
    GenerationRequest,
    Hold,
    HoldState,
)
from creativeflow.services.aigeneration.domain.worker_errors import to_failure

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
REQUEST_ID = UUID("0195940d-0000-7000-8000-000000000001")
JOB_ID = UUID("0195940d-0000-7000-8000-00000000000a")


def new_ids() -> Callable[[], UUID]:
    """Return a source of ids that are unique and the same in every run."""
    numbers = count(1)
    return lambda: UUID(int=next(numbers))


def a_brief(**changes: Any) -> Brief:
    """Build a brief: a square Instagram post."""
    brief: dict[str, Any] = {
        "input_prompt": "A lighthouse at dawn",
        "output_format": "InstagramPost_1x1",
    }
    return cast("Brief", brief | changes)


def a_sample(**changes: Any) -> Asset:
    """Build a valid sample of a square format."""
    sample: dict[str, Any] = {
        "asset_id": "sample-1",
        "url": "https://assets.example/sample-1.png",
        "resolution": "512x512",
        "format": "png",
    }
    return cast("Asset", sample | changes)


def four_samples() -> tuple[Asset, ...]:
    """Build the samples of one round."""
    return tuple(a_sample(asset_id=f"sample-{number}", index=number - 1) for number in range(1, 5))


def a_final(**changes: Any) -> Asset:
    """Build a valid final of a square format."""
    return a_sample(
        **{
            "asset_id": "final-1",
            "url": "https://assets.example/final-1.png",
            "resolution": "1080x1080",
        }
        | changes
    )


def a_hold(**changes: Any) -> Hold:
    """Build the hold of the first samples."""
    values: dict[str, Any] = {
        "stage": Stage.SAMPLES,
        "round": 1,
        "action": "sample_generation",
        "funding": Funding.CREDITS,
        "amount": 25,
        "state": HoldState.HELD,
    } | changes
    return Hold(**{"key": f"{REQUEST_ID}:{values['stage']}:{values['round']}:1"} | values)


def an_allowance(**changes: Any) -> Hold:
    """Build a captured allowance of the Free plan."""
    return a_hold(**{"funding": Funding.ALLOWANCE, "amount": 0, "month": "2026-03-01"} | changes)


def a_request(**changes: Any) -> GenerationRequest:
    """Build a request whose first samples job is queued, without a hold."""
    values: dict[str, Any] = {
        "id": REQUEST_ID,
        "user_id": "user-7",
        "project_id": "project-3",
        "created_by": "odoo",
        "correlation_id": "correlation-1",
        "traceparent": None,
        "state": State.PENDING,
        "stage": Stage.SAMPLES,
        "round": 1,
        "attempt": 1,
        "job_id": JOB_ID,
        "version": 3,
        "plan": "payg",
        "brief": a_brief(),
        "metadata": {},
        "deadline_at": NOW + timedelta(minutes=59),
        "created_at": NOW - timedelta(minutes=1),
        "updated_at": NOW - timedelta(minutes=1),
    }
    return GenerationRequest(**values | changes)


def an_event(request: GenerationRequest, kind: Event, **changes: Any) -> DomainEvent:
    """Build an event that fits the request; fields missing in `changes` keep the request's
    value.
    """
    event = next(event for event in EVENTS if event.kind is kind)
    given = _defaults(request, kind) | changes
    required = {
        each.name: given.get(each.name, getattr(request, each.name, None))
        for each in fields(event)
        if each.default is MISSING and each.default_factory is MISSING
    }
    return event(**required | changes)


def _defaults(request: GenerationRequest, kind: Event) -> dict[str, Any]:
    placing = request.placing
    asked = a_hold(state=HoldState.PLACING)
    answered = replace(placing, state=HoldState.HELD) if placing else an_allowance()
    return {
        "hold": asked if kind is Event.CREDITS_ASKED else answered,
        "failure": to_failure("workflow_error"),
        "lease_until": NOW + timedelta(seconds=60),
        "due_at": NOW,
        "progress": {"percent": 0},
        "round": request.round + 1,
        "selected_sample_id": request.selected_sample_id or "sample-1",
        "final_size": request.final_size or Size(1080, 1080),
        "model": request.model or "standard",
    }


def a_birth(origin: Origin = Origin.FUNDED, **changes: Any) -> Submitted:
    """Build the creation event of the request of `a_request`."""
    request = a_request()
    values: dict[str, Any] = {
        each.name: getattr(request, each.name)
        for each in fields(Submitted)
        if each.name not in {"origin", "hold", "data"}
    }
    return Submitted(**values | {"origin": origin} | changes)
