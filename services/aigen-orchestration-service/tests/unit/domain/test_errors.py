"""The tree of refusals and failures against a table written by hand: status, code, and whether to
try again.
"""

import re
from http import HTTPStatus

import pytest

from creativeflow.services.aigeneration.domain.errors import (
    AigenError,
    ForbiddenError,
    IllegalTransitionError,
    InsufficientCreditsError,
    InternalError,
    InvalidCredentialsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    TokenExpiredError,
    every_error,
)
from creativeflow.services.aigeneration.domain.lifecycle import Event, State, transition_for

TABLE = {
    "InternalError": (500, "internal_error", True),
    "InvalidRequestError": (422, "invalid_request", False),
    "InvalidJsonError": (422, "invalid_json", False),
    "InvalidHeaderError": (400, "invalid_header", False),
    "PayloadTooLargeError": (413, "payload_too_large", False),
    "BodyTooSlowError": (408, "body_too_slow", True),
    "UnsupportedMediaTypeError": (415, "unsupported_media_type", False),
    "MethodNotAllowedError": (405, "method_not_allowed", False),
    "NotFoundError": (404, "not_found", False),
    "AuthenticationRequiredError": (401, "authentication_required", False),
    "InvalidCredentialsError": (401, "invalid_credentials", False),
    "TokenExpiredError": (401, "token_expired", False),
    "ForbiddenError": (403, "forbidden", False),
    "HostNotAllowedError": (403, "host_not_allowed", False),
    "CsrfError": (403, "csrf_failed", False),
    "UserMismatchError": (403, "user_mismatch", False),
    "PlanRequiredError": (403, "plan_required", False),
    "PromptReviewRequiredError": (422, "prompt_review_required", False),
    "SafetyUnavailableError": (503, "safety_unavailable", True),
    "QuoteExpiredError": (409, "quote_expired", False),
    "AccountRestrictedError": (403, "account_restricted", False),
    "InsufficientCreditsError": (402, "insufficient_credits", False),
    "FreeQuotaExhaustedError": (402, "free_quota_exhausted", False),
    "PromptRejectedError": (422, "prompt_rejected", False),
    "InvalidStateError": (409, "invalid_state", False),
    "IllegalTransitionError": (409, "invalid_state", False),
    "ActionInProgressError": (409, "action_in_progress", True),
    "AlreadySelectedError": (409, "already_selected", False),
    "TooManyRoundsError": (409, "too_many_rounds", False),
    "StaleResultError": (409, "stale_result", False),
    "PreconditionFailedError": (412, "precondition_failed", False),
    "IdempotencyKeyRequiredError": (400, "idempotency_key_required", False),
    "IdempotencyKeyInFlightError": (409, "idempotency_key_in_flight", True),
    "IdempotencyKeyReusedError": (422, "idempotency_key_reused", False),
    "WebhookEndpointExistsError": (409, "webhook_endpoint_exists", False),
    "TooManyWebhookEndpointsError": (409, "too_many_webhook_endpoints", False),
    "WebhookEndpointDisabledError": (409, "webhook_endpoint_disabled", False),
    "RateLimitedError": (429, "rate_limited", True),
    "UploadQuotaError": (429, "upload_quota", True),
    "JobUploadsError": (413, "job_uploads", False),
    "ServiceUnavailableError": (503, "service_unavailable", True),
    "StorageUnavailableError": (503, "storage_unavailable", True),
    "CreditsUnavailableError": (503, "credits_unavailable", True),
}

FIGURES: dict[str, dict[str, object]] = {
    "InvalidJsonError": {"max_depth": 20},
    "InvalidHeaderError": {"name": "x-user-id"},
    "PayloadTooLargeError": {"limit_bytes": 262144},
    "WebhookEndpointExistsError": {"endpoint_id": "0195940d-0000-7000-8000-00000000000c"},
    "TooManyWebhookEndpointsError": {"limit": 10},
    "UnsupportedMediaTypeError": {"expected": "application/json"},
    "ForbiddenError": {"role": "operator"},
    "PlanRequiredError": {"feature": "A brand kit", "plan": "Pro"},
    "InsufficientCreditsError": {"required": "0.25"},
    "FreeQuotaExhaustedError": {"limit": 100},
    "InvalidStateError": {"state": State.COMPLETED},
    "IllegalTransitionError": {"state": State.COMPLETED, "event": Event.CANCEL_REQUESTED},
    "AlreadySelectedError": {"sample_id": "sample-2"},
    "TooManyRoundsError": {"limit": 10},
    "RateLimitedError": {"retry_after_seconds": 3},
    "UploadQuotaError": {
        "pictures_max": 200,
        "bytes_max": 1000,
        "days": 30,
        "retry_after_seconds": 3,
    },
    "JobUploadsError": {"pictures_max": 16, "bytes_max": 1000},
}
"""The figures in a sentence; an error that is not here has a sentence without any."""

TREE = every_error()

ERRORS = [pytest.param(error, id=error.__name__) for error in TREE]


def built(error: type[AigenError]) -> AigenError:
    if error is InvalidRequestError:
        return InvalidRequestError.at("/user_id", "missing", "This field is required.")
    return error(**FIGURES.get(error.__name__, {}))


def test_errors_match_the_expected_table() -> None:
    found = {error.__name__: (error.status, error.code, error.retryable) for error in TREE}
    assert found == TABLE


def test_every_error_lists_each_class_once() -> None:
    names = [error.__name__ for error in every_error()]
    assert len(names) == len(set(names))
    assert len(TREE) == 43
    assert AigenError not in every_error()


@pytest.mark.parametrize("error", ERRORS)
def test_errors_have_whole_sentences(error: type[AigenError]) -> None:
    said = str(built(error))
    assert re.fullmatch(r"[A-Z][^{}]*\.", said)
    assert len(said) < 200
    assert error.title
    assert not error.title.endswith(".")
    assert error.__doc__


@pytest.mark.parametrize("error", ERRORS)
def test_errors_refusals_are_4xx_and_5xx_are_retryable(error: type[AigenError]) -> None:
    assert 400 <= HTTPStatus(error.status) < 600
    assert error.status < 500 or error.retryable


@pytest.mark.parametrize("error", ERRORS)
def test_errors_codes_are_snake_case(error: type[AigenError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)


def test_errors_same_code_has_same_status_and_title() -> None:
    by_code: dict[str, set[tuple[int, str]]] = {}
    for error in every_error():
        by_code.setdefault(error.code, set()).add((error.status, error.title))
    assert [code for code, meanings in by_code.items() if len(meanings) > 1] == []


def test_errors_sentence_contains_the_values() -> None:
    assert str(InsufficientCreditsError(required="1.25")).startswith("This costs 1.25 credits ")
    assert str(ForbiddenError(role="operator")).endswith("the role operator.")


def test_illegal_transition_names_state_and_event() -> None:
    with pytest.raises(IllegalTransitionError) as caught:
        transition_for(State.COMPLETED, Event.CANCEL_REQUESTED)
    assert (
        str(caught.value)
        == "The request is COMPLETED, which does not allow cancel_requested. Its `actions` lists"
        " what is possible."
    )


def test_how_long_to_wait_is_known_where_it_was_said() -> None:
    assert RateLimitedError(retry_after_seconds=7).retry_after_seconds == 7
    assert ServiceUnavailableError().retry_after_seconds is None
    assert NotFoundError().retry_after_seconds is None


def test_invalid_request_at_has_one_error() -> None:
    error = InvalidRequestError.at("/model", "unknown_model", "Use one of these.")
    assert error.errors == [
        {"pointer": "/model", "code": "unknown_model", "message": "Use one of these."}
    ]
    assert str(error).startswith("Some fields do not fit.")


def test_token_expired_is_an_invalid_credentials_error() -> None:
    assert issubclass(TokenExpiredError, InvalidCredentialsError)


def test_our_own_fault_promises_that_nothing_was_charged() -> None:
    assert "Nothing was charged" in str(InternalError())
