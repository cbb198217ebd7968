"""The JSON representation of a request: all fields, amounts as text, times in UTC, available
actions.
"""

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest, Hold, HoldState
from creativeflow.services.aigeneration.domain.worker_errors import to_failure
from tests.support.builders import (
    NOW,
    a_brief,
    a_final,
    a_hold,
    a_request,
    an_allowance,
    four_samples,
)

FINAL_HOLD = a_hold(stage=Stage.FINAL, amount=200)


def cost(*holds: Hold) -> dict[str, str]:
    shown: dict[str, str] = to_resource(a_request(holds=holds))["cost"]
    return shown


def test_to_resource_new_request_has_every_field() -> None:
    assert to_resource(a_request(metadata={"campaign": 4}), queue_position=12) == {
        "id": "0195940d-0000-7000-8000-000000000001",
        "status": "PENDING",
        "stage": "samples",
        "round": 1,
        "attempt": 1,
        "user_id": "user-7",
        "project_id": "project-3",
        "plan": "payg",
        "brief": {"input_prompt": "A lighthouse at dawn", "output_format": "InstagramPost_1x1"},
        "samples": [],
        "sample_failures": [],
        "selected_sample_id": None,
        "final_resolution": None,
        "final_asset": None,
        "progress": None,
        "cost": {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"},
        "failure": None,
        "queue_position": 12,
        "actions": ["cancel"],
        "ai_model_used": None,
        "metadata": {"campaign": 4},
        "retry_of": None,
        "deadline_at": "2026-03-14T10:25:53Z",
        "created_at": "2026-03-14T09:25:53Z",
        "updated_at": "2026-03-14T09:25:53Z",
        "version": 3,
    }


def test_to_resource_completed_request_has_its_results() -> None:
    finished = a_request(
        state=State.COMPLETED,
        stage=Stage.FINAL,
        samples=four_samples(),
        selected_sample_id="sample-2",
        sample_failures=(
            {"index": 3, "error_code": "model_timeout", "message": "It took too long."},
        ),
        final_size=Size(2304, 4096),
        final_asset=a_final(),
        ai_model_used="fast",
        deadline_at=None,
        retry_of=UUID(int=9),
        holds=(a_hold(state=HoldState.CAPTURED), FINAL_HOLD),
    )
    shown = to_resource(finished)
    expected: dict[str, Any] = {
        "status": "COMPLETED",
        "stage": "final",
        "samples": list(four_samples()),
        "sample_failures": [
            {"index": 3, "error_code": "model_timeout", "message": "It took too long."}
        ],
        "selected_sample_id": "sample-2",
        "final_resolution": "2304x4096",
        "final_asset": a_final(),
        "ai_model_used": "fast",
        "deadline_at": None,
        "retry_of": "00000000-0000-0000-0000-000000000009",
        "queue_position": None,
        "actions": [],
    }
    assert {name: shown[name] for name in expected} == expected


def test_to_resource_failed_request_has_failure_and_retry() -> None:
    shown = to_resource(a_request(state=State.FAILED, failure=to_failure("network_error")))
    assert shown["failure"]["message"] == "A connection broke while we worked on it. Try again."
    assert shown["actions"] == ["retry"]


@pytest.mark.parametrize("state", list(State))
def test_to_resource_matches_the_schema(state: State) -> None:
    shown = to_resource(
        a_request(
            state=state,
            samples=four_samples(),
            final_asset=a_final(),
            failure=to_failure("workflow_error"),
        )
    )
    assert set(shown) == set(schemas.GenerationRequest.model_fields)
    assert schemas.GenerationRequest.model_validate_json(json.dumps(shown)).status is state


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ((a_hold(),), {"samples": "0.25", "final": "0.00", "total": "0.25", "held": "0.25"}),
        (
            (a_hold(state=HoldState.CAPTURED),),
            {"samples": "0.25", "final": "0.00", "total": "0.25", "held": "0.00"},
        ),
        (
            (a_hold(state=HoldState.CAPTURED), FINAL_HOLD),
            {"samples": "0.25", "final": "2.00", "total": "2.25", "held": "2.00"},
        ),
        (
            (a_hold(state=HoldState.CAPTURED), a_hold(round=2, state=HoldState.CAPTURED)),
            {"samples": "0.50", "final": "0.00", "total": "0.50", "held": "0.00"},
        ),
        (
            (a_hold(state=HoldState.RELEASED),),
            {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"},
        ),
        (
            (a_hold(state=HoldState.REFUSED),),
            {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"},
        ),
        (
            (a_hold(state=HoldState.PLACING),),
            {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"},
        ),
        ((an_allowance(),), {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"}),
    ],
)
def test_to_resource_cost_counts_held_and_captured(
    holds: tuple[Hold, ...], expected: dict[str, str]
) -> None:
    assert cost(*holds) == expected


def test_to_resource_placing_hold_offers_only_cancel() -> None:
    placing = a_hold(stage=Stage.FINAL, state=HoldState.PLACING)
    request = a_request(
        state=State.AWAITING_SELECTION, holds=(a_hold(state=HoldState.CAPTURED), placing)
    )
    assert to_resource(request)["actions"] == ["cancel"]


def test_once_the_credits_were_refused_everything_is_offered_again() -> None:
    refused = a_hold(stage=Stage.FINAL, state=HoldState.REFUSED)
    request = a_request(state=State.AWAITING_SELECTION, holds=(refused,))
    assert to_resource(request)["actions"] == ["select-sample", "regenerate-samples", "cancel"]


def test_times_are_in_utc_to_the_microsecond() -> None:
    moment = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert to_resource(a_request(updated_at=moment))["updated_at"] == "2026-12-31T23:59:59.999999Z"


def test_to_resource_is_json_serialisable() -> None:
    request = a_request(
        brief=a_brief(locale="fr-FR", color_scheme=["#fff"]), samples=four_samples(), updated_at=NOW
    )
    assert json.loads(json.dumps(to_resource(request))) == to_resource(request)


def test_to_resource_has_no_internal_fields() -> None:
    hidden = {
        "created_by",
        "correlation_id",
        "traceparent",
        "job_id",
        "file_format",
        "pending_action",
        "model",
        "fair_at",
        "due_at",
        "lease_until",
        "remind_at",
        "holds",
    }
    assert hidden <= {each.name for each in fields(GenerationRequest)}
    assert hidden & set(to_resource(a_request())) == set()
