"""The one table from an error code of a worker to who caused it, what happens next, and what it costs."""

from dataclasses import dataclass
from enum import StrEnum

from creativeflow.services.aigeneration.domain.lifecycle import Event


class Party(StrEnum):
    """Who caused a failure (REQ-007.1: identified and logged)."""

    SYSTEM = "system"
    PROVIDER = "provider"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Fault:
    """What one error code means; the message is for the end user and names a way on."""

    party: Party
    event: Event
    message: str
    ways_on: tuple[str, ...]

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed."""
        return self.event is Event.ATTEMPT_FAILED


_RETRY = ("retry", "adjust_prompt", "other_model")
_AGAIN = Event.ATTEMPT_FAILED

FAULTS: dict[str, Fault] = {
    "model_unavailable": Fault(
        Party.PROVIDER, _AGAIN, "The AI model is not available right now. Try again, or choose another model.", _RETRY
    ),
    "model_timeout": Fault(
        Party.PROVIDER, _AGAIN, "The AI model took too long. Try again, or choose another model.", _RETRY
    ),
    "provider_error": Fault(Party.PROVIDER, _AGAIN, "The AI provider had a problem. Try again in a moment.", _RETRY),
    "provider_rate_limited": Fault(
        Party.PROVIDER, _AGAIN, "The AI provider is very busy. Try again in a few minutes.", _RETRY
    ),
    "invalid_output": Fault(
        Party.PROVIDER, _AGAIN, "The AI model did not deliver usable pictures. Try again or change the prompt.", _RETRY
    ),
    "unsafe_output": Fault(
        Party.PROVIDER, _AGAIN, "The pictures did not pass our safety check. Try again or change the prompt.", _RETRY
    ),
    "network_error": Fault(Party.SYSTEM, _AGAIN, "A connection broke while we worked on it. Try again.", _RETRY),
    "workflow_error": Fault(Party.SYSTEM, _AGAIN, "Something went wrong on our side. Try again.", _RETRY),
    "storage_error": Fault(Party.SYSTEM, _AGAIN, "The pictures could not be stored. Try again.", _RETRY),
    "prompt_rejected": Fault(
        Party.USER, Event.PROMPT_REJECTED, "The AI provider does not accept this prompt. Change the words.",
        ("adjust_prompt",),
    ),
    "invalid_input": Fault(
        Party.USER, Event.INPUT_REFUSED, "The AI provider cannot use these inputs. Change them and try again.",
        ("adjust_prompt", "other_model"),
    ),
}  # fmt: skip

DISPATCH_TIMEOUT = "dispatch_timeout"
INSUFFICIENT_CREDITS = "insufficient_credits"
OPERATOR_ENDED = "operator_ended"
PROMPT_REFUSED = "prompt_refused"

OWN_FAULTS: dict[str, Fault] = {
    DISPATCH_TIMEOUT: Fault(
        Party.SYSTEM, Event.DEADLINE_PASSED,
        "We could not start the work in time. Try again; what was not delivered costs nothing.",
        ("retry",),
    ),
    INSUFFICIENT_CREDITS: Fault(
        Party.USER, Event.CREDITS_REFUSED, "There are not enough credits for this. Top up and try again.",
        ("top_up", "retry"),
    ),
    PROMPT_REFUSED: Fault(
        Party.USER, Event.REVIEW_REJECTED,
        "We cannot make pictures of this. Change the words and try again; nothing was charged.",
        ("adjust_prompt",),
    ),
    OPERATOR_ENDED: Fault(
        Party.SYSTEM, Event.OPERATOR_FAILED,
        "Our support team ended this request. Try again; what was not delivered costs nothing.",
        ("retry",),
    ),
}  # fmt: skip
"""Failures that no worker reports: we find them ourselves."""


def reported_code(code: str) -> str:
    """A worker's code if it is one of the table; any other counts as our own workflow's fault and costs nothing."""
    return code if code in FAULTS else "workflow_error"


def fault_of(code: str) -> Fault:
    """The meaning of a code of either table."""
    return FAULTS.get(code) or OWN_FAULTS[code]
