"""The state machine against tables written by hand: where each event leads, what it sets off, and
no dead end.
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
def test_each_event_leads_where_the_design_says_or_is_impossible(
    state: State, event: Event
) -> None:
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
def test_each_move_sets_off_what_the_design_says_in_that_order(state: str, event: str) -> None:
    effects = SETS_OFF_HERE[state, event] if (state, event) in SETS_OFF_HERE else SETS_OFF[event]
    assert list(transition_for(State(state), Event(event)).effects) == effects


def test_the_states_are_those_of_the_design() -> None:
    assert [state.value for state in State] == list(LEADS_TO)


def test_every_event_can_happen_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_every_effect_is_used() -> None:
    assert {effect for move in TRANSITIONS.values() for effect in move.effects} == set(Effect)


@pytest.mark.parametrize(
    "move", [pytest.param(move, id=f"{s} {e}") for (s, e), move in TRANSITIONS.items()]
)
def test_every_move_has_a_sentence_for_the_docs(move: object) -> None:
    because = str(getattr(move, "because", ""))
    assert because[:1].isupper()
    assert because.endswith(".")


def test_the_kinds_of_states_are_those_of_the_design() -> None:
    assert {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"} == TERMINAL
    assert set(State) - TERMINAL == LIVE
    assert {"PENDING", "PUBLISHING_TO_QUEUE", "PROCESSING_SAMPLES", "PROCESSING_FINAL"} == WITH_JOB
    assert {"PUBLISHING_TO_QUEUE", "PROCESSING_SAMPLES", "PROCESSING_FINAL"} == IN_FLIGHT


def test_a_terminal_state_is_never_left() -> None:
    assert [state for state, _ in TRANSITIONS if state in TERMINAL] == []


def test_every_state_can_be_reached_from_the_start() -> None:
    assert reachable(State.VALIDATING_CREDITS) == set(State)


def test_a_request_that_costs_no_credits_reaches_all_but_the_credit_check() -> None:
    assert reachable(State.PENDING) == set(State) - {State.VALIDATING_CREDITS}


@pytest.mark.parametrize("state", sorted(LIVE))
def test_every_live_state_can_end_well_and_badly(state: State) -> None:
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} <= reachable(state)


@pytest.mark.parametrize("state", sorted(LIVE))
def test_every_live_state_can_be_cancelled_and_force_failed(state: State) -> None:
    assert transition_for(state, Event.CANCEL_REQUESTED).to is State.CANCELLED
    assert transition_for(state, Event.OPERATOR_FAILED).to is State.FAILED


@pytest.mark.parametrize("state", sorted(WITH_JOB))
def test_every_state_with_a_job_takes_its_results_and_its_failures(state: State) -> None:
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
def test_a_state_without_a_job_takes_no_results(state: State) -> None:
    job_events = {
        *CONFIRMED.values(),
        *STARTED.values(),
        *DELIVERED.values(),
        Event.ATTEMPT_FAILED,
        Event.JOB_LEASED,
    }
    assert [event for event in job_events if (state, event) in TRANSITIONS] == []


def test_each_stage_has_its_own_events() -> None:
    assert CONFIRMED == {"samples": "samples_job_confirmed", "final": "final_job_confirmed"}
    assert STARTED == {"samples": "samples_started", "final": "final_started"}
    assert DELIVERED == {"samples": "samples_delivered", "final": "final_delivered"}


def test_a_passed_deadline_fails_the_attempt_of_a_worker_and_ends_every_other_wait() -> None:
    assert ON_DEADLINE == {
        "VALIDATING_CREDITS": "deadline_passed",
        "PENDING": "deadline_passed",
        "PUBLISHING_TO_QUEUE": "deadline_passed",
        "PROCESSING_SAMPLES": "attempt_failed",
        "AWAITING_SELECTION": "deadline_passed",
        "PROCESSING_FINAL": "attempt_failed",
    }


@pytest.mark.parametrize("state", sorted(LIVE))
def test_the_event_of_a_deadline_is_legal_also_when_no_attempt_is_left(state: State) -> None:
    event = ON_DEADLINE[state]
    assert (state, event) in TRANSITIONS
    if event is Event.ATTEMPT_FAILED:
        assert (state, Event.ATTEMPTS_EXHAUSTED) in TRANSITIONS


def test_the_policy_bounds_the_wait_in_exactly_the_live_states() -> None:
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


def test_the_policy_asks_its_own_settings() -> None:
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


def test_the_numbers_of_the_policy_are_those_of_the_mission() -> None:
    policy = Policy()
    assert (
        policy.max_attempts,
        policy.max_rounds,
        policy.sample_count,
        policy.free_generations,
    ) == (3, 10, 4, 100)
    assert policy.charge_rejected is True


def test_whatever_is_delivered_is_captured() -> None:
    delivered = [
        move.effects for (_, event), move in TRANSITIONS.items() if event in DELIVERED.values()
    ]
    assert len(delivered) == 6
    assert all(effects[0] is Effect.CAPTURE for effects in delivered)


def test_nothing_is_captured_without_a_delivery() -> None:
    capturing = {
        event for (_, event), move in TRANSITIONS.items() if Effect.CAPTURE in move.effects
    }
    assert capturing == set(DELIVERED.values())


def test_every_unhappy_end_gives_back_what_is_held() -> None:
    unhappy = {State.FAILED, State.CANCELLED, State.EXPIRED}
    keeping = {
        (state, event)
        for (state, event), move in TRANSITIONS.items()
        if move.to in unhappy and Effect.RELEASE not in move.effects
    }
    assert keeping == {
        (State.VALIDATING_CREDITS, Event.CREDITS_REFUSED)
    }  # nothing was held: it was just refused


def test_every_end_is_announced_after_the_money_is_settled() -> None:
    ends = [move.effects for move in TRANSITIONS.values() if move.to in TERMINAL]
    assert ends
    assert all(effects[-1].startswith("announce ") for effects in ends)


def test_every_transition_into_the_queue_but_a_return_from_the_broker_queues_a_job() -> None:
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
def test_the_user_is_offered_what_can_be_done_now(state: State) -> None:
    assert allowed_actions(state) == ACTIONS[state]


@pytest.mark.parametrize("state", sorted(LIVE))
def test_an_offered_action_is_a_legal_move(state: State) -> None:
    assert all((state, USER_ACTIONS[name]) in TRANSITIONS for name in allowed_actions(state))
