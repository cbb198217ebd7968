"""The state machine against hand-written tables: next state and effects of each event, and
reachability.
"""

from collections import deque
from datetime import timedelta
from itertools import product

import pytest

from creativeflow.services.aigeneration.domain.errors import (
    IllegalTransitionError,
    InvalidStateError,
)
from creativeflow.services.aigeneration.domain.lifecycle import (
    CONFIRMED,
    DELIVERED,
    IN_FLIGHT,
    LIVE,
    ON_DEADLINE,
    STARTED,
    TERMINAL,
    TRANSITIONS,
    USER_ACTIONS,
    WITH_JOB,
    Effect,
    Event,
    Stage,
    State,
    allowed_actions,
    transition_for,
)
from creativeflow.services.aigeneration.domain.policy import Policy

ENDS_A_JOB = {
    "samples_delivered": "AWAITING_SELECTION",
    "final_delivered": "COMPLETED",
    "attempt_failed": "PENDING",
    "attempts_exhausted": "FAILED",
    "input_refused": "FAILED",
    "prompt_rejected": "CONTENT_REJECTED",
}
ENDS_EARLY = {"cancel_requested": "CANCELLED", "operator_failed": "FAILED"}
TOO_LATE = {"deadline_passed": "FAILED"}
BEGINS = {"samples_started": "PROCESSING_SAMPLES", "final_started": "PROCESSING_FINAL"}

LEADS_TO: dict[str, dict[str, str]] = {
    "VALIDATING_CREDITS": {
        "review_passed": "PENDING",
        "review_rejected": "CONTENT_REJECTED",
        "credits_asked": "VALIDATING_CREDITS",
        "credits_held": "PENDING",
        "credits_refused": "FAILED",
        **ENDS_EARLY,
        **TOO_LATE,
    },
    "PENDING": {
        "job_leased": "PUBLISHING_TO_QUEUE",
        **BEGINS,
        **ENDS_A_JOB,
        **ENDS_EARLY,
        **TOO_LATE,
    },
    "PUBLISHING_TO_QUEUE": {
        "samples_job_confirmed": "PROCESSING_SAMPLES",
        "final_job_confirmed": "PROCESSING_FINAL",
        "job_returned": "PENDING",
        **BEGINS,
        **ENDS_A_JOB,
        **ENDS_EARLY,
        **TOO_LATE,
    },
    "PROCESSING_SAMPLES": {
        "samples_started": "PROCESSING_SAMPLES",
        "job_not_taken": "PENDING",
        "deadline_passed": "FAILED",
        "progress_reported": "PROCESSING_SAMPLES",
        "samples_delivered": "AWAITING_SELECTION",
        "attempt_failed": "PENDING",
        "attempts_exhausted": "FAILED",
        "input_refused": "FAILED",
        "prompt_rejected": "CONTENT_REJECTED",
        **ENDS_EARLY,
    },
    "AWAITING_SELECTION": {
        "credits_asked": "AWAITING_SELECTION",
        "credits_refused": "AWAITING_SELECTION",
        "expiry_neared": "AWAITING_SELECTION",
        "sample_selected": "PENDING",
        "regeneration_requested": "PENDING",
        "deadline_passed": "EXPIRED",
        **ENDS_EARLY,
    },
    "PROCESSING_FINAL": {
        "final_started": "PROCESSING_FINAL",
        "job_not_taken": "PENDING",
        "deadline_passed": "FAILED",
        "progress_reported": "PROCESSING_FINAL",
        "final_delivered": "COMPLETED",
        "attempt_failed": "PENDING",
        "attempts_exhausted": "FAILED",
        "input_refused": "FAILED",
        "prompt_rejected": "CONTENT_REJECTED",
        **ENDS_EARLY,
    },
    "COMPLETED": {},
    "FAILED": {},
    "CONTENT_REJECTED": {},
    "CANCELLED": {},
    "EXPIRED": {},
}

SETS_OFF: dict[str, list[str]] = {
    "review_passed": ["queue job"],
    "review_rejected": ["announce failure"],
    "credits_held": ["queue job"],
    "credits_asked": [],
    "job_leased": [],
    "job_returned": [],
    "job_not_taken": ["renew job"],
    "samples_job_confirmed": [],
    "final_job_confirmed": [],
    "samples_started": [],
    "final_started": [],
    "progress_reported": [],
    "samples_delivered": ["capture", "announce samples"],
    "final_delivered": ["capture", "announce final"],
    "attempt_failed": ["requeue job"],
    "attempts_exhausted": ["release", "announce failure"],
    "input_refused": ["release", "announce failure"],
    "prompt_rejected": ["settle rejected", "announce failure"],
    "sample_selected": ["queue job"],
    "regeneration_requested": ["queue job"],
    "cancel_requested": ["release", "announce cancellation"],
    "expiry_neared": ["announce expiring"],
    "deadline_passed": ["release", "announce failure"],
    "operator_failed": ["release", "announce failure"],
}
SETS_OFF_HERE: dict[tuple[str, str], list[str]] = {
    ("VALIDATING_CREDITS", "credits_refused"): ["announce failure"],
    ("AWAITING_SELECTION", "credits_refused"): [],
    ("AWAITING_SELECTION", "deadline_passed"): ["release", "announce expiry"],
}
"""Where the same event sets off something else than elsewhere."""

ACTIONS = {
    "VALIDATING_CREDITS": ["cancel"],
    "PENDING": ["cancel"],
    "PUBLISHING_TO_QUEUE": ["cancel"],
    "PROCESSING_SAMPLES": ["cancel"],
    "AWAITING_SELECTION": ["select-sample", "regenerate-samples", "cancel"],
    "PROCESSING_FINAL": ["cancel"],
    "COMPLETED": [],
    "FAILED": ["retry"],
    "CONTENT_REJECTED": ["retry"],
    "CANCELLED": ["retry"],
    "EXPIRED": ["retry"],
}


def reachable(start: State) -> set[State]:
    """Every state that some path of moves leads to, the start included."""
    found, waiting = {start}, deque([start])
    while waiting:
        here = waiting.popleft()
        following = {move.to for (state, _), move in TRANSITIONS.items() if state is here} - found
        found |= following
        waiting += following
    return found


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_transitions_every_state_and_event_matches_the_design(state: State, event: Event) -> None:
    expected = LEADS_TO[state].get(event)
    if expected is None:
        with pytest.raises(IllegalTransitionError) as caught:
            transition_for(state, event)
        assert caught.value.fields == {"state": state, "event": event}
        assert isinstance(caught.value, InvalidStateError)
    else:
        assert transition_for(state, event).to == expected


@pytest.mark.parametrize(
    ("state", "event"), [(s, e) for s, events in LEADS_TO.items() for e in events]
)
def test_transitions_effects_match_the_design_in_order(state: str, event: str) -> None:
    effects = SETS_OFF_HERE[state, event] if (state, event) in SETS_OFF_HERE else SETS_OFF[event]
    assert list(transition_for(State(state), Event(event)).effects) == effects


def test_states_match_the_design() -> None:
    assert [state.value for state in State] == list(LEADS_TO)


def test_events_all_occur_in_the_table() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_effects_all_occur_in_the_table() -> None:
    assert {effect for move in TRANSITIONS.values() for effect in move.effects} == set(Effect)


@pytest.mark.parametrize(
    "move", [pytest.param(move, id=f"{s} {e}") for (s, e), move in TRANSITIONS.items()]
)
def test_transitions_all_have_a_reason(move: object) -> None:
    because = str(getattr(move, "because", ""))
    assert because[:1].isupper()
    assert because.endswith(".")


def test_state_sets_match_the_design() -> None:
    assert {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"} == TERMINAL
    assert set(State) - TERMINAL == LIVE
    assert {"PENDING", "PUBLISHING_TO_QUEUE", "PROCESSING_SAMPLES", "PROCESSING_FINAL"} == WITH_JOB
    assert {"PUBLISHING_TO_QUEUE", "PROCESSING_SAMPLES", "PROCESSING_FINAL"} == IN_FLIGHT


def test_terminal_states_have_no_transitions() -> None:
    assert [state for state, _ in TRANSITIONS if state in TERMINAL] == []


def test_states_are_all_reachable() -> None:
    assert reachable(State.VALIDATING_CREDITS) == set(State)


def test_states_without_credits_reach_all_but_validating() -> None:
    assert reachable(State.PENDING) == set(State) - {State.VALIDATING_CREDITS}


@pytest.mark.parametrize("state", sorted(LIVE))
def test_live_states_can_all_complete_and_fail(state: State) -> None:
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} <= reachable(state)


@pytest.mark.parametrize("state", sorted(LIVE))
def test_live_states_can_all_be_cancelled_and_failed(state: State) -> None:
    assert transition_for(state, Event.CANCEL_REQUESTED).to is State.CANCELLED
    assert transition_for(state, Event.OPERATOR_FAILED).to is State.FAILED


@pytest.mark.parametrize("state", sorted(WITH_JOB))
def test_states_with_a_job_accept_results_and_failures(state: State) -> None:
    stages = {State.PROCESSING_SAMPLES: [Stage.SAMPLES], State.PROCESSING_FINAL: [Stage.FINAL]}.get(
        state, list(Stage)
    )
    for stage in stages:
        assert transition_for(state, STARTED[stage]).to in {
            State.PROCESSING_SAMPLES,
            State.PROCESSING_FINAL,
        }
        assert transition_for(state, DELIVERED[stage]).to in {
            State.AWAITING_SELECTION,
            State.COMPLETED,
        }
    for event in (
        Event.ATTEMPT_FAILED,
        Event.ATTEMPTS_EXHAUSTED,
        Event.INPUT_REFUSED,
        Event.PROMPT_REJECTED,
    ):
        assert (state, event) in TRANSITIONS


@pytest.mark.parametrize("state", sorted(set(State) - WITH_JOB))
def test_states_without_a_job_refuse_results(state: State) -> None:
    job_events = {
        *CONFIRMED.values(),
        *STARTED.values(),
        *DELIVERED.values(),
        Event.ATTEMPT_FAILED,
        Event.JOB_LEASED,
    }
    assert [event for event in job_events if (state, event) in TRANSITIONS] == []


def test_events_of_each_stage_are_distinct() -> None:
    assert CONFIRMED == {"samples": "samples_job_confirmed", "final": "final_job_confirmed"}
    assert STARTED == {"samples": "samples_started", "final": "final_started"}
    assert DELIVERED == {"samples": "samples_delivered", "final": "final_delivered"}


def test_deadlines_fail_attempts_and_end_waits() -> None:
    assert ON_DEADLINE == {
        "VALIDATING_CREDITS": "deadline_passed",
        "PENDING": "deadline_passed",
        "PUBLISHING_TO_QUEUE": "deadline_passed",
        "PROCESSING_SAMPLES": "attempt_failed",
        "AWAITING_SELECTION": "deadline_passed",
        "PROCESSING_FINAL": "attempt_failed",
    }


@pytest.mark.parametrize("state", sorted(LIVE))
def test_deadlines_event_is_legal_without_attempts_left(state: State) -> None:
    event = ON_DEADLINE[state]
    assert (state, event) in TRANSITIONS
    if event is Event.ATTEMPT_FAILED:
        assert (state, Event.ATTEMPTS_EXHAUSTED) in TRANSITIONS


def test_policy_has_a_deadline_for_exactly_the_live_states() -> None:
    assert {state: Policy().deadline(state) for state in State} == {
        "VALIDATING_CREDITS": timedelta(hours=1),
        "PENDING": timedelta(hours=1),
        "PUBLISHING_TO_QUEUE": timedelta(hours=1),
        "PROCESSING_SAMPLES": timedelta(minutes=5),
        "AWAITING_SELECTION": timedelta(days=30),
        "PROCESSING_FINAL": timedelta(minutes=10),
        "COMPLETED": None,
        "FAILED": None,
        "CONTENT_REJECTED": None,
        "CANCELLED": None,
        "EXPIRED": None,
    }


def test_policy_uses_its_own_values() -> None:
    seconds = {
        "dispatch_deadline": 1,
        "samples_deadline": 2,
        "final_deadline": 3,
        "selection_deadline": 4,
    }
    policy = Policy(**{name: timedelta(seconds=number) for name, number in seconds.items()})  # type: ignore[arg-type]
    assert [policy.deadline(state) for state in State if state in LIVE] == [
        timedelta(seconds=number) for number in (1, 1, 1, 2, 4, 3)
    ]


def test_policy_defaults_match_the_requirements() -> None:
    policy = Policy()
    assert (
        policy.max_attempts,
        policy.max_rounds,
        policy.sample_count,
        policy.free_generations,
    ) == (3, 10, 4, 100)
    assert policy.charge_rejected is True


def test_transitions_with_delivery_capture() -> None:
    delivered = [
        move.effects for (_, event), move in TRANSITIONS.items() if event in DELIVERED.values()
    ]
    assert len(delivered) == 6
    assert all(effects[0] is Effect.CAPTURE for effects in delivered)


def test_transitions_without_delivery_do_not_capture() -> None:
    capturing = {
        event for (_, event), move in TRANSITIONS.items() if Effect.CAPTURE in move.effects
    }
    assert capturing == set(DELIVERED.values())


def test_transitions_to_failed_ends_release() -> None:
    unhappy = {State.FAILED, State.CANCELLED, State.EXPIRED}
    keeping = {
        (state, event)
        for (state, event), move in TRANSITIONS.items()
        if move.to in unhappy and Effect.RELEASE not in move.effects
    }
    assert keeping == {
        (State.VALIDATING_CREDITS, Event.CREDITS_REFUSED)
    }  # nothing was held: it was just refused


def test_transitions_to_ends_announce_after_settling() -> None:
    ends = [move.effects for move in TRANSITIONS.values() if move.to in TERMINAL]
    assert ends
    assert all(effects[-1].startswith("announce ") for effects in ends)


def test_transitions_to_pending_queue_a_job_except_returns() -> None:
    into_the_queue = {
        event: set(move.effects) & {Effect.QUEUE_JOB, Effect.REQUEUE_JOB, Effect.RENEW_JOB}
        for (_, event), move in TRANSITIONS.items()
        if move.to is State.PENDING
    }
    assert into_the_queue == {
        "submitted": {"queue job"},
        "review_passed": {"queue job"},
        "credits_held": {"queue job"},
        "sample_selected": {"queue job"},
        "regeneration_requested": {"queue job"},
        "attempt_failed": {"requeue job"},
        "job_returned": set(),
        "job_not_taken": {"renew job"},
    }


@pytest.mark.parametrize("state", list(State))
def test_allowed_actions_match_the_state(state: State) -> None:
    assert allowed_actions(state) == ACTIONS[state]


@pytest.mark.parametrize("state", sorted(LIVE))
def test_allowed_actions_are_legal_transitions(state: State) -> None:
    assert all((state, USER_ACTIONS[name]) in TRANSITIONS for name in allowed_actions(state))
