"""The JSON representation of a request, shared by API, stream and stored responses."""

from collections.abc import Mapping
from typing import Any

from creativeflow.services.aigeneration.domain.lifecycle import Event, Stage, State, allowed_actions
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState, iso

_KEPT = (HoldState.HELD, HoldState.CAPTURED)


def to_public_data(event: str, data: Mapping[str, Any], viewer: str) -> dict[str, Any]:
    """Return the data of a timeline entry as callers other than operators see it: without the names
    of others, operators' notes, and reasons of the system, which are technical.
    """
    hidden = {"note"} | (set() if event == Event.OPERATOR_FAILED else {"reason"})
    if data.get("by") != viewer:
        hidden.add("by")
    return {name: value for name, value in data.items() if name not in hidden}


def to_resource(request: GenerationRequest, *, queue_position: int | None = None) -> dict[str, Any]:
    """Convert a request to JSON types; amounts are decimal strings of credits, times ISO 8601 in
    UTC.

    `cost` counts what is charged or held; `held` is the part that may still be released.
    """
    samples = final = held = 0
    for hold in request.holds:
        if hold.state in _KEPT:
            samples += hold.amount if hold.stage is Stage.SAMPLES else 0
            final += hold.amount if hold.stage is Stage.FINAL else 0
            held += hold.amount if hold.state is HoldState.HELD else 0
    return {
        "id": str(request.id),
        "status": request.state.value,
        "stage": request.stage.value,
        "round": request.round,
        "attempt": request.attempt,
        "user_id": request.user_id,
        "project_id": request.project_id,
        "plan": request.plan,
        "brief": request.brief,
        "samples": list(request.shown_samples),
        "sample_failures": list(request.sample_failures),
        "selected_sample_id": request.selected_sample_id,
        "final_resolution": str(request.final_size) if request.final_size else None,
        "final_asset": request.final_asset,
        "progress": request.progress,
        "cost": {
            "samples": credits_text(samples),
            "final": credits_text(final),
            "total": credits_text(samples + final),
            "held": credits_text(held),
        },
        "failure": request.failure,
        "queue_position": queue_position,
        "actions": _actions(request),
        "ai_model_used": request.ai_model_used,
        "metadata": request.metadata,
        "retry_of": str(request.retry_of) if request.retry_of else None,
        "deadline_at": iso(request.deadline_at),
        "created_at": iso(request.created_at),
        "updated_at": iso(request.updated_at),
        "version": request.version,
    }


def _actions(request: GenerationRequest) -> list[str]:
    possible = [
        action
        for action in allowed_actions(request.state)
        if action != "regenerate-samples" or request.round < request.max_rounds
    ]
    if request.state is State.AWAITING_SELECTION and request.placing:
        return [action for action in possible if action == "cancel"]
    return possible
