"""The state machine: TRANSITIONS gives the next state and the effects for each state and event.

The diagram in docs/lifecycle.md and the actions that the API offers are generated from it; a test
compares it with the constraints of the database.
"""

from dataclasses import dataclass
from enum import StrEnum

from creativeflow.services.aigeneration.domain.errors import IllegalTransitionError


class State(StrEnum):
    """The state of a request; callers see the value as `status`."""

    VALIDATING_CREDITS = "VALIDATING_CREDITS"
    PENDING = "PENDING"
    PUBLISHING_TO_QUEUE = "PUBLISHING_TO_QUEUE"
    PROCESSING_SAMPLES = "PROCESSING_SAMPLES"
    AWAITING_SELECTION = "AWAITING_SELECTION"
    PROCESSING_FINAL = "PROCESSING_FINAL"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CONTENT_REJECTED = "CONTENT_REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Origin(StrEnum):
    """What a new request still needs; rows that create a request start here instead of in a
    state.
    """

    NEEDS_REVIEW = "needs review"
    NEEDS_CREDITS = "needs credits"
    FUNDED = "funded"


class Stage(StrEnum):
    """What the current job makes; also the name of the lane in which its jobs wait."""

    SAMPLES = "samples"
    FINAL = "final"


class Event(StrEnum):
    """The events of a request; the timeline stores the value."""

    SUBMITTED = "submitted"
    REVIEW_PASSED = "review_passed"
    REVIEW_REJECTED = "review_rejected"
    CREDITS_HELD = "credits_held"
    CREDITS_REFUSED = "credits_refused"
    CREDITS_ASKED = "credits_asked"
    JOB_LEASED = "job_leased"
    JOB_RETURNED = "job_returned"
    JOB_NOT_TAKEN = "job_not_taken"
    SAMPLES_JOB_CONFIRMED = "samples_job_confirmed"
    FINAL_JOB_CONFIRMED = "final_job_confirmed"
    SAMPLES_STARTED = "samples_started"
    FINAL_STARTED = "final_started"
    PROGRESS_REPORTED = "progress_reported"
    SAMPLES_DELIVERED = "samples_delivered"
    FINAL_DELIVERED = "final_delivered"
    ATTEMPT_FAILED = "attempt_failed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    INPUT_REFUSED = "input_refused"
    PROMPT_REJECTED = "prompt_rejected"
    SAMPLE_SELECTED = "sample_selected"
    REGENERATION_REQUESTED = "regeneration_requested"
    CANCEL_REQUESTED = "cancel_requested"
    EXPIRY_NEARED = "expiry_neared"
    DEADLINE_PASSED = "deadline_passed"
    OPERATOR_FAILED = "operator_failed"


class Effect(StrEnum):
    """The effects of transitions, written in the same statement as the new state."""

    QUEUE_JOB = "queue job"
    REQUEUE_JOB = "requeue job"
    RENEW_JOB = "renew job"
    CAPTURE = "capture"
    RELEASE = "release"
    SETTLE_REJECTED = "settle rejected"
    ANNOUNCE_SAMPLES = "announce samples"
    ANNOUNCE_FINAL = "announce final"
    ANNOUNCE_FAILURE = "announce failure"
    ANNOUNCE_CANCELLATION = "announce cancellation"
    ANNOUNCE_EXPIRING = "announce expiring"
    ANNOUNCE_EXPIRY = "announce expiry"


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of the table: the next state, the effects, and the reason for the documentation."""

    to: State
    effects: tuple[Effect, ...]
    because: str


_S, _E, _F, _O = State, Event, Effect, Origin

_CANCEL = Transition(
    _S.CANCELLED, (_F.RELEASE, _F.ANNOUNCE_CANCELLATION), "The user cancels; holds are released."
)
_EXHAUST = Transition(
    _S.FAILED, (_F.RELEASE, _F.ANNOUNCE_FAILURE), "No attempt is left; the holds are released."
)
_AGAIN = Transition(
    _S.PENDING,
    (_F.REQUEUE_JOB,),
    "The attempt failed for a transient reason; the same hold covers the next one.",
)
_REFUSE_INPUT = Transition(
    _S.FAILED,
    (_F.RELEASE, _F.ANNOUNCE_FAILURE),
    "The provider cannot use the input; nothing was delivered.",
)
_REJECT = Transition(
    _S.CONTENT_REJECTED,
    (_F.SETTLE_REJECTED, _F.ANNOUNCE_FAILURE),
    "The provider refuses the prompt; a sample set is charged unless a setting says otherwise.",
)
_SHOW = Transition(
    _S.AWAITING_SELECTION,
    (_F.CAPTURE, _F.ANNOUNCE_SAMPLES),
    "At least one valid sample was delivered.",
)
_FINISH = Transition(
    _S.COMPLETED,
    (_F.CAPTURE, _F.ANNOUNCE_FINAL),
    "The final was delivered in the ordered size and format.",
)
_FAIL = Transition(
    _S.FAILED,
    (_F.RELEASE, _F.ANNOUNCE_FAILURE),
    "An operator ended the request; holds are released.",
)
_WAITED = Transition(
    _S.FAILED,
    (_F.RELEASE, _F.ANNOUNCE_FAILURE),
    "It waited longer than its deadline; nothing is charged.",
)
_UNTAKEN = Transition(
    _S.PENDING,
    (_F.RENEW_JOB,),
    "No worker took the job in time; it is queued again without counting an attempt.",
)
_SAMPLES_BEGUN = Transition(
    _S.PROCESSING_SAMPLES, (), "A worker reports the start, before or after the broker's confirm."
)
_FINAL_BEGUN = Transition(
    _S.PROCESSING_FINAL, (), "A worker reports the start, before or after the broker's confirm."
)

TRANSITIONS: dict[tuple[State | Origin, Event], Transition] = {
    # A request is created.
    (_O.NEEDS_REVIEW, _E.SUBMITTED): Transition(
        _S.VALIDATING_CREDITS, (), "The prompt waits for an operator's review; nothing is held."
    ),
    (_O.NEEDS_CREDITS, _E.SUBMITTED): Transition(
        _S.VALIDATING_CREDITS, (), "A hold is placed at the credit service."
    ),
    (_O.FUNDED, _E.SUBMITTED): Transition(
        _S.PENDING,
        (_F.QUEUE_JOB,),
        "Nothing is to be held, or the same statement takes the credits.",
    ),
    # The prompt is in review, or the hold for the first samples is being placed.
    (_S.VALIDATING_CREDITS, _E.REVIEW_PASSED): Transition(
        _S.PENDING, (_F.QUEUE_JOB,), "An operator accepts the prompt, and nothing is to be held."
    ),
    (_S.VALIDATING_CREDITS, _E.REVIEW_REJECTED): Transition(
        _S.CONTENT_REJECTED,
        (_F.ANNOUNCE_FAILURE,),
        "An operator rejects the prompt; nothing was charged.",
    ),
    (_S.VALIDATING_CREDITS, _E.CREDITS_ASKED): Transition(
        _S.VALIDATING_CREDITS,
        (),
        "An operator accepts the prompt; a hold is placed at the credit service.",
    ),
    (_S.VALIDATING_CREDITS, _E.CREDITS_HELD): Transition(
        _S.PENDING, (_F.QUEUE_JOB,), "The credits are held."
    ),
    (_S.VALIDATING_CREDITS, _E.CREDITS_REFUSED): Transition(
        _S.FAILED,
        (_F.ANNOUNCE_FAILURE,),
        "The credit service refuses; there is nothing to release.",
    ),
    (_S.VALIDATING_CREDITS, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.VALIDATING_CREDITS, _E.DEADLINE_PASSED): _WAITED,
    (_S.VALIDATING_CREDITS, _E.OPERATOR_FAILED): _FAIL,
    # The job waits in the fair queue. Results are accepted: its lease may have expired although it
    # reached a worker.
    (_S.PENDING, _E.JOB_LEASED): Transition(
        _S.PUBLISHING_TO_QUEUE, (), "A dispatcher leased the job."
    ),
    (_S.PENDING, _E.SAMPLES_STARTED): _SAMPLES_BEGUN,
    (_S.PENDING, _E.FINAL_STARTED): _FINAL_BEGUN,
    (_S.PENDING, _E.SAMPLES_DELIVERED): _SHOW,
    (_S.PENDING, _E.FINAL_DELIVERED): _FINISH,
    (_S.PENDING, _E.ATTEMPT_FAILED): _AGAIN,
    (_S.PENDING, _E.ATTEMPTS_EXHAUSTED): _EXHAUST,
    (_S.PENDING, _E.INPUT_REFUSED): _REFUSE_INPUT,
    (_S.PENDING, _E.PROMPT_REJECTED): _REJECT,
    (_S.PENDING, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.PENDING, _E.DEADLINE_PASSED): _WAITED,
    (_S.PENDING, _E.OPERATOR_FAILED): _FAIL,
    # The job is being published. A worker may report before the broker confirms.
    (_S.PUBLISHING_TO_QUEUE, _E.SAMPLES_JOB_CONFIRMED): Transition(
        _S.PROCESSING_SAMPLES, (), "The broker has stored the samples job."
    ),
    (_S.PUBLISHING_TO_QUEUE, _E.FINAL_JOB_CONFIRMED): Transition(
        _S.PROCESSING_FINAL, (), "The broker has stored the final job."
    ),
    (_S.PUBLISHING_TO_QUEUE, _E.JOB_RETURNED): Transition(
        _S.PENDING,
        (),
        "The broker refused the job or its confirm is unknown: the same job is published again.",
    ),
    (_S.PUBLISHING_TO_QUEUE, _E.SAMPLES_STARTED): _SAMPLES_BEGUN,
    (_S.PUBLISHING_TO_QUEUE, _E.FINAL_STARTED): _FINAL_BEGUN,
    (_S.PUBLISHING_TO_QUEUE, _E.SAMPLES_DELIVERED): _SHOW,
    (_S.PUBLISHING_TO_QUEUE, _E.FINAL_DELIVERED): _FINISH,
    (_S.PUBLISHING_TO_QUEUE, _E.ATTEMPT_FAILED): _AGAIN,
    (_S.PUBLISHING_TO_QUEUE, _E.ATTEMPTS_EXHAUSTED): _EXHAUST,
    (_S.PUBLISHING_TO_QUEUE, _E.INPUT_REFUSED): _REFUSE_INPUT,
    (_S.PUBLISHING_TO_QUEUE, _E.PROMPT_REJECTED): _REJECT,
    (_S.PUBLISHING_TO_QUEUE, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.PUBLISHING_TO_QUEUE, _E.DEADLINE_PASSED): _WAITED,
    (_S.PUBLISHING_TO_QUEUE, _E.OPERATOR_FAILED): _FAIL,
    # A worker makes samples.
    (_S.PROCESSING_SAMPLES, _E.SAMPLES_STARTED): _SAMPLES_BEGUN,
    (_S.PROCESSING_SAMPLES, _E.PROGRESS_REPORTED): Transition(
        _S.PROCESSING_SAMPLES, (), "The worker reports progress."
    ),
    (_S.PROCESSING_SAMPLES, _E.SAMPLES_DELIVERED): _SHOW,
    (_S.PROCESSING_SAMPLES, _E.JOB_NOT_TAKEN): _UNTAKEN,
    (_S.PROCESSING_SAMPLES, _E.ATTEMPT_FAILED): _AGAIN,
    (_S.PROCESSING_SAMPLES, _E.ATTEMPTS_EXHAUSTED): _EXHAUST,
    (_S.PROCESSING_SAMPLES, _E.INPUT_REFUSED): _REFUSE_INPUT,
    (_S.PROCESSING_SAMPLES, _E.PROMPT_REJECTED): _REJECT,
    (_S.PROCESSING_SAMPLES, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.PROCESSING_SAMPLES, _E.DEADLINE_PASSED): _WAITED,
    (_S.PROCESSING_SAMPLES, _E.OPERATOR_FAILED): _FAIL,
    # The samples wait for a selection; the state stays while the hold of the next step is placed.
    (_S.AWAITING_SELECTION, _E.CREDITS_ASKED): Transition(
        _S.AWAITING_SELECTION,
        (),
        "The next step costs credits; a hold is placed at the credit service.",
    ),
    (_S.AWAITING_SELECTION, _E.CREDITS_REFUSED): Transition(
        _S.AWAITING_SELECTION,
        (),
        "The credit service refuses; the samples stay and the user may choose again.",
    ),
    (_S.AWAITING_SELECTION, _E.SAMPLE_SELECTED): Transition(
        _S.PENDING, (_F.QUEUE_JOB,), "One sample is chosen and paid for, if it costs anything."
    ),
    (_S.AWAITING_SELECTION, _E.REGENERATION_REQUESTED): Transition(
        _S.PENDING,
        (_F.QUEUE_JOB,),
        "Another round of samples is ordered, at the price of a sample set.",
    ),
    (_S.AWAITING_SELECTION, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.AWAITING_SELECTION, _E.EXPIRY_NEARED): Transition(
        _S.AWAITING_SELECTION,
        (_F.ANNOUNCE_EXPIRING,),
        "The samples expire soon; the user is notified once.",
    ),
    (_S.AWAITING_SELECTION, _E.DEADLINE_PASSED): Transition(
        _S.EXPIRED,
        (_F.RELEASE, _F.ANNOUNCE_EXPIRY),
        "The selection deadline passed; delivered samples stay charged.",
    ),
    (_S.AWAITING_SELECTION, _E.OPERATOR_FAILED): _FAIL,
    # A worker makes the final.
    (_S.PROCESSING_FINAL, _E.FINAL_STARTED): _FINAL_BEGUN,
    (_S.PROCESSING_FINAL, _E.PROGRESS_REPORTED): Transition(
        _S.PROCESSING_FINAL, (), "The worker reports progress."
    ),
    (_S.PROCESSING_FINAL, _E.FINAL_DELIVERED): _FINISH,
    (_S.PROCESSING_FINAL, _E.JOB_NOT_TAKEN): _UNTAKEN,
    (_S.PROCESSING_FINAL, _E.ATTEMPT_FAILED): _AGAIN,
    (_S.PROCESSING_FINAL, _E.ATTEMPTS_EXHAUSTED): _EXHAUST,
    (_S.PROCESSING_FINAL, _E.INPUT_REFUSED): _REFUSE_INPUT,
    (_S.PROCESSING_FINAL, _E.PROMPT_REJECTED): _REJECT,
    (_S.PROCESSING_FINAL, _E.CANCEL_REQUESTED): _CANCEL,
    (_S.PROCESSING_FINAL, _E.DEADLINE_PASSED): _WAITED,
    (_S.PROCESSING_FINAL, _E.OPERATOR_FAILED): _FAIL,
}

LIVE = frozenset(state for state, _ in TRANSITIONS if isinstance(state, State))
TERMINAL = frozenset(State) - LIVE
WITH_JOB = frozenset(
    {_S.PENDING, _S.PUBLISHING_TO_QUEUE, _S.PROCESSING_SAMPLES, _S.PROCESSING_FINAL}
)
"""States with an unfinished job."""
IN_FLIGHT = WITH_JOB - {_S.PENDING}
"""States in which a job counts towards its lane's window."""

AT_WORK = frozenset({_S.PROCESSING_SAMPLES, _S.PROCESSING_FINAL})
"""States in which a worker is busy with the job."""

CONFIRMED = {Stage.SAMPLES: Event.SAMPLES_JOB_CONFIRMED, Stage.FINAL: Event.FINAL_JOB_CONFIRMED}
STARTED = {Stage.SAMPLES: Event.SAMPLES_STARTED, Stage.FINAL: Event.FINAL_STARTED}
DELIVERED = {Stage.SAMPLES: Event.SAMPLES_DELIVERED, Stage.FINAL: Event.FINAL_DELIVERED}

ON_DEADLINE: dict[State, Event] = {
    _S.VALIDATING_CREDITS: _E.DEADLINE_PASSED,
    _S.PENDING: _E.DEADLINE_PASSED,
    _S.PUBLISHING_TO_QUEUE: _E.DEADLINE_PASSED,
    _S.PROCESSING_SAMPLES: _E.ATTEMPT_FAILED,
    _S.AWAITING_SELECTION: _E.DEADLINE_PASSED,
    _S.PROCESSING_FINAL: _E.ATTEMPT_FAILED,
}
"""The event of a passed deadline, by state; every live state has one, so that no request is stuck.

A job that no worker has taken is queued again instead, until its dispatch deadline has passed.
"""

USER_ACTIONS: dict[str, Event] = {
    "select-sample": Event.SAMPLE_SELECTED,
    "regenerate-samples": Event.REGENERATION_REQUESTED,
    "cancel": Event.CANCEL_REQUESTED,
}
"""The event of each action that users can take on a live request, by path segment of the API."""


def transition_for(state: State | Origin, event: Event) -> Transition:
    """Return the row for `event` in `state`.

    Raises:
        IllegalTransitionError: there is none; terminal states have none at all.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(state=state, event=event) from None


def allowed_actions(state: State) -> list[str]:
    """Return the actions a user may take in this state, as path segments of the API."""
    live = [name for name, event in USER_ACTIONS.items() if (state, event) in TRANSITIONS]
    return live or (["retry"] if state is not State.COMPLETED else [])
