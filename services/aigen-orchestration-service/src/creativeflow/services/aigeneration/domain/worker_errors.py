"""The worker errors: responsibility, next step and cost of each error code."""

from dataclasses import dataclass
from enum import StrEnum

from creativeflow.services.aigeneration.domain.lifecycle import Event
from creativeflow.services.aigeneration.domain.request import Failure


class Responsibility(StrEnum):
    """Who is responsible for a failure (REQ-007.1)."""

    SYSTEM = "system"
    PROVIDER = "provider"
    USER = "user"


@dataclass(frozen=True, slots=True)
class WorkerError:
    """The meaning of an error code; the message is for the end user and names a next step."""

    responsibility: Responsibility
    event: Event
    message: str
    next_steps: tuple[str, ...]

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed."""
        return self.event is Event.ATTEMPT_FAILED


_RETRY = ("retry", "adjust_prompt", "other_model")
_AGAIN = Event.ATTEMPT_FAILED

WORKER_ERRORS: dict[str, WorkerError] = {
    "model_unavailable": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The AI model is not available right now. Try again, or choose another model.",
        _RETRY,
    ),
    "model_timeout": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The AI model took too long. Try again, or choose another model.",
        _RETRY,
    ),
    "provider_error": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The AI provider had a problem. Try again in a moment.",
        _RETRY,
    ),
    "provider_rate_limited": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The AI provider is very busy. Try again in a few minutes.",
        _RETRY,
    ),
    "invalid_output": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The AI model did not deliver usable pictures. Try again or change the prompt.",
        _RETRY,
    ),
    "unsafe_output": WorkerError(
        Responsibility.PROVIDER,
        _AGAIN,
        "The pictures did not pass our safety check. Try again or change the prompt.",
        _RETRY,
    ),
    "provider_account": WorkerError(
        Responsibility.SYSTEM,
        _AGAIN,
        "We cannot use this AI model right now. Try again, or choose another model.",
        _RETRY,
    ),
    "network_error": WorkerError(
        Responsibility.SYSTEM,
        _AGAIN,
        "A connection broke while we worked on it. Try again.",
        _RETRY,
    ),
    "workflow_error": WorkerError(
        Responsibility.SYSTEM, _AGAIN, "Something went wrong on our side. Try again.", _RETRY
    ),
    "storage_error": WorkerError(
        Responsibility.SYSTEM, _AGAIN, "The pictures could not be stored. Try again.", _RETRY
    ),
    "prompt_rejected": WorkerError(
        Responsibility.USER,
        Event.PROMPT_REJECTED,
        "The AI provider does not accept this prompt. Change the words.",
        ("adjust_prompt",),
    ),
    "invalid_input": WorkerError(
        Responsibility.USER,
        Event.INPUT_REFUSED,
        "The AI provider cannot use these inputs. Change them and try again.",
        ("adjust_prompt", "other_model"),
    ),
}

DISPATCH_TIMEOUT = "dispatch_timeout"
INSUFFICIENT_CREDITS = "insufficient_credits"
OPERATOR_ENDED = "operator_ended"
PROMPT_REFUSED = "prompt_refused"

SERVICE_ERRORS: dict[str, WorkerError] = {
    DISPATCH_TIMEOUT: WorkerError(
        Responsibility.SYSTEM,
        Event.DEADLINE_PASSED,
        "We could not start the work in time. Try again; what was not delivered costs nothing.",
        ("retry",),
    ),
    INSUFFICIENT_CREDITS: WorkerError(
        Responsibility.USER,
        Event.CREDITS_REFUSED,
        "There are not enough credits for this. Top up and try again.",
        ("top_up", "retry"),
    ),
    PROMPT_REFUSED: WorkerError(
        Responsibility.USER,
        Event.REVIEW_REJECTED,
        "We cannot make pictures of this. Change the words and try again; nothing was charged.",
        ("adjust_prompt",),
    ),
    OPERATOR_ENDED: WorkerError(
        Responsibility.SYSTEM,
        Event.OPERATOR_FAILED,
        "Our support team ended this request. Try again; what was not delivered costs nothing.",
        ("retry",),
    ),
}
"""Errors that the service itself detects."""


def reported_code(code: str) -> str:
    """Return a reported code if it is known; any other counts as a workflow error and costs
    nothing.
    """
    return code if code in WORKER_ERRORS else "workflow_error"


def worker_error_for(code: str) -> WorkerError:
    """Return the error of a code of either table."""
    return WORKER_ERRORS.get(code) or SERVICE_ERRORS[code]


def to_failure(code: str) -> Failure:
    """Return the failure shown to the user: message, responsibility and next steps (REQ-007.1)."""
    fault = worker_error_for(code)
    return Failure(
        code=code,
        fault=fault.responsibility.value,
        message=fault.message,
        retryable="retry" in fault.next_steps,
        next_steps=list(fault.next_steps),
    )
