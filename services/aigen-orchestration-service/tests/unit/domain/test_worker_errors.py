"""The published table of error codes: responsibility, next step, and message for the user
(REQ-007.1).
"""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, WITH_JOB, Event, State
from creativeflow.services.aigeneration.domain.worker_errors import (
    SERVICE_ERRORS,
    WORKER_ERRORS,
    WorkerError,
    reported_code,
    to_failure,
    worker_error_for,
)

WORKERS_CODES = {
    "model_unavailable": ("provider", "attempt_failed"),
    "model_timeout": ("provider", "attempt_failed"),
    "provider_error": ("provider", "attempt_failed"),
    "provider_rate_limited": ("provider", "attempt_failed"),
    "invalid_output": ("provider", "attempt_failed"),
    "unsafe_output": ("provider", "attempt_failed"),
    "provider_account": ("system", "attempt_failed"),
    "network_error": ("system", "attempt_failed"),
    "workflow_error": ("system", "attempt_failed"),
    "storage_error": ("system", "attempt_failed"),
    "prompt_rejected": ("user", "prompt_rejected"),
    "invalid_input": ("user", "input_refused"),
}
OUR_CODES = {
    "dispatch_timeout": ("system", "deadline_passed"),
    "insufficient_credits": ("user", "credits_refused"),
    "operator_ended": ("system", "operator_failed"),
    "prompt_refused": ("user", "review_rejected"),
}
EVERY_FAULT = [
    pytest.param(fault, id=code) for code, fault in (WORKER_ERRORS | SERVICE_ERRORS).items()
]


def test_worker_codes_match_the_contract() -> None:
    assert {
        code: (fault.responsibility, fault.event) for code, fault in WORKER_ERRORS.items()
    } == WORKERS_CODES


def test_service_codes_match_the_contract() -> None:
    assert {
        code: (fault.responsibility, fault.event) for code, fault in SERVICE_ERRORS.items()
    } == OUR_CODES


def test_worker_and_service_codes_are_disjoint() -> None:
    assert set(WORKER_ERRORS) & set(SERVICE_ERRORS) == set()


@pytest.mark.parametrize("code", sorted(WORKERS_CODES | OUR_CODES))
def test_worker_error_for_every_code_is_found(code: str) -> None:
    responsibility, event = (WORKERS_CODES | OUR_CODES)[code]
    assert (worker_error_for(code).responsibility, worker_error_for(code).event) == (
        responsibility,
        event,
    )


@pytest.mark.parametrize("code", sorted(WORKERS_CODES))
def test_worker_errors_only_those_of_users_are_final(code: str) -> None:
    responsibility, _ = WORKERS_CODES[code]
    assert worker_error_for(code).transient is (responsibility != "user")


@pytest.mark.parametrize(
    "code", ["", "quota_exceeded", "PROMPT_REJECTED", "prompt_rejected ", "dispatch-timeout"]
)
def test_reported_code_unknown_is_a_workflow_error(code: str) -> None:
    fault = worker_error_for(reported_code(code))
    assert (fault.responsibility, fault.event, fault.transient) == (
        "system",
        "attempt_failed",
        True,
    )


@given(st.text(max_size=40).filter(lambda code: code not in WORKERS_CODES))
@settings(max_examples=100, deadline=None)
def test_reported_code_any_text_never_blames_the_user(code: str) -> None:
    assert worker_error_for(reported_code(code)).responsibility == "system"


@pytest.mark.parametrize("state", sorted(WITH_JOB))
@pytest.mark.parametrize("code", sorted(WORKERS_CODES))
def test_worker_errors_events_are_legal_in_every_state_with_a_job(state: State, code: str) -> None:
    assert (state, worker_error_for(code).event) in TRANSITIONS


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("dispatch_timeout", State.PENDING),
        ("insufficient_credits", State.VALIDATING_CREDITS),
        ("operator_ended", State.AWAITING_SELECTION),
    ],
)
def test_service_errors_events_end_the_request(code: str, state: State) -> None:
    event = worker_error_for(code).event
    assert event in {Event.DEADLINE_PASSED, Event.CREDITS_REFUSED, Event.OPERATOR_FAILED}
    assert TRANSITIONS[state, event].to is State.FAILED


@pytest.mark.parametrize("fault", EVERY_FAULT)
def test_worker_errors_messages_have_a_next_step(fault: WorkerError) -> None:
    assert re.fullmatch(r"[A-Z].*\.", fault.message)
    assert not re.search(
        r"error|exception|null|n8n|queue|broker|http|\d", fault.message, re.IGNORECASE
    )
    assert fault.next_steps
    assert set(fault.next_steps) <= {"retry", "adjust_prompt", "other_model", "top_up"}


@pytest.mark.parametrize("fault", EVERY_FAULT)
def test_worker_errors_try_again_messages_offer_a_retry(fault: WorkerError) -> None:
    if fault.transient:
        assert {"retry", "adjust_prompt", "other_model"} <= set(fault.next_steps)


def test_to_failure_has_message_and_responsibility() -> None:
    assert to_failure("model_timeout") == {
        "code": "model_timeout",
        "fault": "provider",
        "message": "The AI model took too long. Try again, or choose another model.",
        "retryable": True,
        "next_steps": ["retry", "adjust_prompt", "other_model"],
    }


def test_to_failure_rejected_prompt_is_not_retryable() -> None:
    rejected = to_failure("prompt_rejected")
    assert (rejected["fault"], rejected["retryable"], rejected["next_steps"]) == (
        "user",
        False,
        ["adjust_prompt"],
    )


def test_missing_credits_can_be_topped_up() -> None:
    refused = to_failure("insufficient_credits")
    assert (refused["fault"], refused["retryable"], refused["next_steps"]) == (
        "user",
        True,
        ["top_up", "retry"],
    )


def test_to_failure_unknown_code_is_a_workflow_error() -> None:
    unknown = to_failure(reported_code("gpu_on_fire"))
    assert (unknown["code"], unknown["fault"]) == ("workflow_error", "system")
    assert unknown["message"] == "Something went wrong on our side. Try again."
