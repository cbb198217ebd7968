"""The effects of each event: the next request, timeline entry, holds and messages, and properties
of any path.
"""

import copy
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.errors import IllegalTransitionError
from creativeflow.services.aigeneration.domain.events import CancelRequested, DomainEvent
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import (
    LIVE,
    TERMINAL,
    TRANSITIONS,
    WITH_JOB,
    Event,
    Origin,
    Stage,
    State,
)
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import Funding
from creativeflow.services.aigeneration.domain.request import GenerationRequest, Hold, HoldState
from creativeflow.services.aigeneration.domain.transitions import (
    TOPICS,
    Context,
    OutboxMessage,
    StateChange,
    apply,
)
from creativeflow.services.aigeneration.domain.worker_errors import to_failure
from tests.support.builders import (
    JOB_ID,
    NOW,
    REQUEST_ID,
    a_birth,
    a_brief,
    a_final,
    a_hold,
    a_request,
    a_sample,
    an_allowance,
    an_event,
    four_samples,
    new_ids,
)

LIVE_ROWS = {
    (state, event): row for (state, event), row in TRANSITIONS.items() if isinstance(state, State)
}
EVERY_MOVE = [pytest.param(state, event, id=f"{state}-{event}") for state, event in LIVE_ROWS]
FINAL_HOLD = a_hold(stage=Stage.FINAL, action="standard_generation", amount=100)
HELD_SAMPLES = {
    "key": f"{REQUEST_ID}:samples:1:1",
    "user_id": "user-7",
    "amount": 25,
    "action": "sample_generation",
}
HELD_FINAL = {
    "key": f"{REQUEST_ID}:final:1:1",
    "user_id": "user-7",
    "amount": 100,
    "action": "standard_generation",
}
CAPTURED_SAMPLES = a_hold(state=HoldState.CAPTURED)

PLAIN, WITH_EVENTS = Policy(), Policy(publish_events=True)
GENEROUS = Policy(charge_rejected=False)


def apply_event(
    request: GenerationRequest, event: Event, policy: Policy = PLAIN, **fields: Any
) -> StateChange:
    context = Context(policy=policy, now=NOW, new_id=new_ids())
    return apply(request, an_event(request, event, **fields), context)


def awaiting(**changes: Any) -> GenerationRequest:
    """Return a request with delivered and captured samples."""
    return a_request(
        **{
            "state": State.AWAITING_SELECTION,
            "samples": four_samples(),
            "holds": (CAPTURED_SAMPLES,),
            "deadline_at": NOW + timedelta(days=12),
            "remind_at": NOW + timedelta(days=9),
        }
        | changes
    )


def making_final(**changes: Any) -> GenerationRequest:
    """Return a request whose final is in progress, with its hold."""
    return awaiting(
        **{
            "state": State.PROCESSING_FINAL,
            "stage": Stage.FINAL,
            "selected_sample_id": "sample-2",
            "final_size": Size(1080, 1080),
            "holds": (CAPTURED_SAMPLES, FINAL_HOLD),
            "deadline_at": NOW + timedelta(minutes=1),
            "remind_at": None,
        }
        | changes
    )


def topics(change: StateChange) -> list[str]:
    return [message.topic for message in change.messages]


def announced(change: StateChange) -> Mapping[str, Any]:
    """The one notification of a change."""
    (body,) = [message.body for message in change.messages if message.topic == "notification.send"]
    return body


# Every move


@pytest.mark.parametrize(("state", "event"), EVERY_MOVE)
def test_apply_adds_one_version_and_one_timeline_entry(state: State, event: Event) -> None:
    request = a_request(state=state, version=41)
    change = apply_event(request, event, data={"by": "somebody"})
    assert change.after.version == 42
    assert change.after.updated_at == NOW
    assert change.after.state is TRANSITIONS[state, event].to
    assert [(line.event, line.state, line.data) for line in change.entries] == [
        (event.value, change.after.state, {"by": "somebody"})
    ]


@pytest.mark.parametrize(("state", "event"), EVERY_MOVE)
def test_apply_does_not_change_its_input(state: State, event: Event) -> None:
    request = a_request(state=state, holds=(a_hold(),), samples=four_samples())
    unchanged = copy.deepcopy(request)
    change = apply_event(request, event)
    assert request == unchanged
    assert change.before is request
    assert change.after is not request


@pytest.mark.parametrize(("state", "event"), EVERY_MOVE)
def test_apply_ends_the_previous_lease(state: State, event: Event) -> None:
    leased = a_request(state=state, lease_until=NOW + timedelta(seconds=30))
    renewed = NOW + timedelta(seconds=60) if event is Event.JOB_LEASED else None
    assert apply_event(leased, event).after.lease_until == renewed


@pytest.mark.parametrize(("state", "event"), EVERY_MOVE)
def test_apply_is_deterministic(state: State, event: Event) -> None:
    request = a_request(state=state, holds=(a_hold(),))
    assert apply_event(request, event, WITH_EVENTS) == apply_event(request, event, WITH_EVENTS)


@pytest.mark.parametrize(("state", "event"), EVERY_MOVE)
def test_apply_live_states_have_a_deadline_and_terminal_ones_none(
    state: State, event: Event
) -> None:
    after = apply_event(a_request(state=state), event).after
    assert (after.deadline_at is not None) is (after.state in LIVE)


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", [event for event in Event if event is not Event.SUBMITTED])
def test_apply_to_an_ended_request_is_illegal(state: State, event: Event) -> None:
    with pytest.raises(IllegalTransitionError):
        apply_event(a_request(state=state), event)


def test_request_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        a_request().version = 9  # type: ignore[misc]


def test_apply_messages_cover_exactly_the_topics() -> None:
    owed = {
        topic
        for state, event in LIVE_ROWS
        for policy in (WITH_EVENTS, GENEROUS)
        for topic in topics(apply_event(a_request(state=state, holds=(a_hold(),)), event, policy))
    }
    assert owed == set(TOPICS)
    assert set(TOPICS) == {
        "notification.send",
        "event.publish",
        "credits.capture",
        "credits.release",
    }


def test_apply_sets_the_fields_of_the_event() -> None:
    after = apply_event(
        a_request(), Event.JOB_LEASED, lease_until=NOW + timedelta(seconds=60), model="fast"
    ).after
    assert (after.lease_until, after.model) == (NOW + timedelta(seconds=60), "fast")


def test_apply_event_without_data_has_an_empty_entry() -> None:
    assert apply_event(a_request(), Event.JOB_LEASED).entries[0].data == {}


# Deadlines


@pytest.mark.parametrize(
    ("state", "event", "wait"),
    [
        (State.VALIDATING_CREDITS, Event.CREDITS_HELD, timedelta(hours=1)),
        (State.AWAITING_SELECTION, Event.SAMPLE_SELECTED, timedelta(hours=1)),
        (State.AWAITING_SELECTION, Event.REGENERATION_REQUESTED, timedelta(hours=1)),
        (State.PENDING, Event.SAMPLES_STARTED, timedelta(minutes=5)),
        (State.PENDING, Event.FINAL_STARTED, timedelta(minutes=10)),
        (State.PUBLISHING_TO_QUEUE, Event.SAMPLES_JOB_CONFIRMED, timedelta(minutes=5)),
        (State.PUBLISHING_TO_QUEUE, Event.FINAL_JOB_CONFIRMED, timedelta(minutes=10)),
        (State.PROCESSING_SAMPLES, Event.SAMPLES_DELIVERED, timedelta(days=30)),
        (State.PUBLISHING_TO_QUEUE, Event.SAMPLES_DELIVERED, timedelta(days=30)),
        (State.PROCESSING_SAMPLES, Event.ATTEMPT_FAILED, timedelta(hours=1)),
        (State.PROCESSING_FINAL, Event.ATTEMPT_FAILED, timedelta(hours=1)),
        (State.PENDING, Event.ATTEMPT_FAILED, timedelta(hours=1)),
        (State.PUBLISHING_TO_QUEUE, Event.ATTEMPT_FAILED, timedelta(hours=1)),
    ],
)
def test_apply_new_state_gets_its_deadline(state: State, event: Event, wait: timedelta) -> None:
    assert apply_event(a_request(state=state), event).after.deadline_at == NOW + wait


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.PENDING, Event.JOB_LEASED),
        (State.PUBLISHING_TO_QUEUE, Event.JOB_RETURNED),
        (State.PROCESSING_SAMPLES, Event.SAMPLES_STARTED),
        (State.PROCESSING_SAMPLES, Event.PROGRESS_REPORTED),
        (State.PROCESSING_FINAL, Event.FINAL_STARTED),
        (State.PROCESSING_FINAL, Event.PROGRESS_REPORTED),
        (State.AWAITING_SELECTION, Event.CREDITS_ASKED),
        (State.AWAITING_SELECTION, Event.CREDITS_REFUSED),
        (State.AWAITING_SELECTION, Event.EXPIRY_NEARED),
    ],
)
def test_apply_continued_state_keeps_its_deadline(state: State, event: Event) -> None:
    deadline = NOW + timedelta(seconds=17)
    assert (
        apply_event(a_request(state=state, deadline_at=deadline), event).after.deadline_at
        == deadline
    )


def test_apply_samples_set_the_reminder_three_days_before_expiry() -> None:
    after = apply_event(a_request(state=State.PROCESSING_SAMPLES), Event.SAMPLES_DELIVERED).after
    assert (after.remind_at, after.deadline_at) == (
        NOW + timedelta(days=27),
        NOW + timedelta(days=30),
    )


def test_apply_short_selection_deadline_has_no_reminder() -> None:
    hasty = Policy(selection_deadline=timedelta(days=3))
    assert apply_event(a_request(), Event.SAMPLES_DELIVERED, hasty).after.remind_at is None


def test_apply_leaving_the_selection_clears_the_reminder() -> None:
    assert apply_event(awaiting(), Event.SAMPLE_SELECTED).after.remind_at is None
    assert apply_event(awaiting(), Event.CREDITS_ASKED).after.remind_at == NOW + timedelta(days=9)


def test_apply_leaving_the_state_clears_the_pending_action() -> None:
    pending = {"event": "sample_selected", "fields": {}}
    assert (
        apply_event(awaiting(pending_action=pending), Event.SAMPLE_SELECTED).after.pending_action
        is None
    )
    assert (
        apply_event(awaiting(pending_action=pending), Event.CANCEL_REQUESTED).after.pending_action
        is None
    )
    assert (
        apply_event(awaiting(pending_action=pending), Event.EXPIRY_NEARED).after.pending_action
        == pending
    )


# Jobs


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.VALIDATING_CREDITS, Event.CREDITS_HELD),
        (State.AWAITING_SELECTION, Event.SAMPLE_SELECTED),
        (State.AWAITING_SELECTION, Event.REGENERATION_REQUESTED),
    ],
)
def test_apply_queued_job_is_new_and_first_attempt(state: State, event: Event) -> None:
    request = a_request(
        state=state,
        attempt=3,
        due_at=NOW - timedelta(days=1),
        progress={"percent": 90},
        failure=to_failure("workflow_error"),
    )
    change = apply_event(request, event)
    assert change.queues is True
    assert change.after.job_id not in {None, JOB_ID}
    assert (change.after.attempt, change.after.due_at) == (1, NOW)
    assert (change.after.progress, change.after.failure) == (None, None)


@pytest.mark.parametrize(("attempt", "delay_seconds"), [(1, 2), (2, 4), (3, 8), (9, 512)])
def test_apply_each_attempt_doubles_the_delay(attempt: int, delay_seconds: int) -> None:
    request = a_request(
        state=State.PROCESSING_SAMPLES, attempt=attempt, fair_at=12.5, progress={"percent": 50}
    )
    change = apply_event(request, Event.ATTEMPT_FAILED)
    after = change.after
    assert after.due_at == NOW + timedelta(seconds=delay_seconds)
    assert after.attempt == attempt + 1
    assert after.job_id not in {None, JOB_ID}
    assert (after.fair_at, after.progress) == (12.5, None)
    assert change.queues is False, "a new attempt keeps its place in the fair queue"


def test_apply_attempt_delay_follows_the_policy() -> None:
    slow = Policy(retry_delay=timedelta(seconds=30))
    assert apply_event(
        a_request(attempt=2), Event.ATTEMPT_FAILED, slow
    ).after.due_at == NOW + timedelta(minutes=1)


def test_apply_new_samples_attempt_drops_earlier_samples() -> None:
    assert apply_event(a_request(samples=(a_sample(),)), Event.ATTEMPT_FAILED).after.samples == ()


@pytest.mark.parametrize("state", [State.PROCESSING_SAMPLES, State.PROCESSING_FINAL])
def test_job_not_taken_is_queued_under_a_new_id_and_counts_as_no_attempt(state: State) -> None:
    queued_at = NOW - timedelta(minutes=20)
    before = a_request(state=state, attempt=2, due_at=queued_at, progress=None)
    after = apply_event(before, Event.JOB_NOT_TAKEN).after
    assert (after.state, after.attempt, after.due_at) == (State.PENDING, 2, queued_at)
    assert after.job_id != before.job_id
    assert after.deadline_at == queued_at + Policy().dispatch_deadline
    assert not apply_event(before, Event.JOB_NOT_TAKEN).queues


def test_apply_new_final_attempt_keeps_the_samples() -> None:
    assert apply_event(making_final(), Event.ATTEMPT_FAILED).after.samples == four_samples()


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.PENDING, Event.JOB_LEASED),
        (State.PUBLISHING_TO_QUEUE, Event.JOB_RETURNED),
        (State.PUBLISHING_TO_QUEUE, Event.SAMPLES_JOB_CONFIRMED),
        (State.PROCESSING_SAMPLES, Event.PROGRESS_REPORTED),
        (State.PROCESSING_SAMPLES, Event.SAMPLES_DELIVERED),
        (State.PROCESSING_SAMPLES, Event.CANCEL_REQUESTED),
        (State.PROCESSING_FINAL, Event.FINAL_DELIVERED),
    ],
)
def test_apply_other_transitions_keep_the_job(state: State, event: Event) -> None:
    change = apply_event(a_request(state=state, attempt=2), event)
    assert (change.after.job_id, change.after.attempt, change.queues) == (JOB_ID, 2, False)


# Money


def test_apply_delivered_samples_are_captured() -> None:
    change = apply_event(
        a_request(state=State.PROCESSING_SAMPLES, holds=(a_hold(),)), Event.SAMPLES_DELIVERED
    )
    assert change.holds == (CAPTURED_SAMPLES,)
    assert change.after.holds == (CAPTURED_SAMPLES,)
    assert change.messages[0] == OutboxMessage("credits.capture", HELD_SAMPLES)
    assert topics(change) == ["credits.capture", "notification.send"]


def test_apply_delivered_final_is_captured_once() -> None:
    change = apply_event(making_final(), Event.FINAL_DELIVERED)
    assert change.holds == (replace(FINAL_HOLD, state=HoldState.CAPTURED),)
    assert set(change.after.holds) == {CAPTURED_SAMPLES, *change.holds}
    assert change.messages[0] == OutboxMessage("credits.capture", HELD_FINAL)
    assert topics(change) == ["credits.capture", "notification.send"]


@pytest.mark.parametrize(
    "event",
    [Event.ATTEMPTS_EXHAUSTED, Event.INPUT_REFUSED, Event.CANCEL_REQUESTED, Event.OPERATOR_FAILED],
)
def test_apply_ends_release_undelivered_and_keep_delivered_holds(event: Event) -> None:
    change = apply_event(making_final(), event)
    assert change.holds == (replace(FINAL_HOLD, state=HoldState.RELEASED),)
    assert CAPTURED_SAMPLES in change.after.holds
    assert change.messages[0] == OutboxMessage("credits.release", HELD_FINAL)
    assert topics(change) == ["credits.release", "notification.send"]


def test_apply_dispatch_timeout_releases_the_hold() -> None:
    change = apply_event(a_request(holds=(a_hold(),)), Event.DEADLINE_PASSED)
    assert change.holds == (a_hold(state=HoldState.RELEASED),)
    assert topics(change) == ["credits.release", "notification.send"]


def test_expired_samples_stay_charged() -> None:
    change = apply_event(awaiting(), Event.DEADLINE_PASSED)
    assert (change.holds, change.after.holds) == ((), (CAPTURED_SAMPLES,))
    assert topics(change) == ["notification.send"]


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.SAMPLES_DELIVERED, HoldState.CAPTURED),
        (Event.PROMPT_REJECTED, HoldState.CAPTURED),
        (Event.CANCEL_REQUESTED, HoldState.RELEASED),
        (Event.ATTEMPTS_EXHAUSTED, HoldState.RELEASED),
    ],
)
def test_apply_allowance_is_resolved_without_a_message(event: Event, state: HoldState) -> None:
    request = a_request(state=State.PROCESSING_SAMPLES, plan="free", holds=(an_allowance(),))
    change = apply_event(request, event)
    assert change.holds == (an_allowance(state=state),)
    assert topics(change) == ["notification.send"]


@pytest.mark.parametrize(
    "state", [HoldState.CAPTURED, HoldState.RELEASED, HoldState.REFUSED, HoldState.PLACING]
)
@pytest.mark.parametrize(
    "event", [Event.SAMPLES_DELIVERED, Event.CANCEL_REQUESTED, Event.PROMPT_REJECTED]
)
def test_apply_resolves_only_held_holds(state: HoldState, event: Event) -> None:
    request = a_request(holds=(a_hold(state=state),))
    change = apply_event(request, event)
    assert (change.holds, change.after.holds) == ((), request.holds)
    assert topics(change) == ["notification.send"]


@pytest.mark.parametrize("event", [Event.ATTEMPT_FAILED, Event.JOB_LEASED, Event.SAMPLES_STARTED])
def test_apply_attempts_share_their_hold(event: Event) -> None:
    request = a_request(holds=(a_hold(),))
    change = apply_event(request, event)
    assert (change.after.holds, change.holds, change.messages) == (request.holds, (), ())


@pytest.mark.parametrize(
    ("policy", "stage", "outcome"),
    [
        (PLAIN, Stage.SAMPLES, HoldState.CAPTURED),
        (PLAIN, Stage.FINAL, HoldState.RELEASED),
        (GENEROUS, Stage.SAMPLES, HoldState.RELEASED),
        (GENEROUS, Stage.FINAL, HoldState.RELEASED),
    ],
)
def test_apply_rejected_prompt_captures_samples_by_setting_and_never_a_final(
    policy: Policy, stage: Stage, outcome: HoldState
) -> None:
    held = a_hold(stage=stage)
    change = apply_event(a_request(stage=stage, holds=(held,)), Event.PROMPT_REJECTED, policy)
    assert change.holds == (replace(held, state=outcome),)
    topic = "credits.capture" if outcome is HoldState.CAPTURED else "credits.release"
    assert change.messages[0] == OutboxMessage(topic, held.reservation("user-7"))
    assert topics(change) == [topic, "notification.send"]


def test_apply_hold_of_an_event_is_added() -> None:
    placing = replace(FINAL_HOLD, state=HoldState.PLACING)
    change = apply_event(awaiting(), Event.CREDITS_ASKED, hold=placing)
    assert change.holds == (placing,)
    assert change.after.holds == (CAPTURED_SAMPLES, placing)
    assert change.messages == ()


def test_apply_hold_of_an_event_replaces_the_same_key() -> None:
    request = a_request(state=State.VALIDATING_CREDITS, holds=(a_hold(state=HoldState.PLACING),))
    change = apply_event(request, Event.CREDITS_HELD, hold=a_hold())
    assert (change.after.holds, change.holds) == ((a_hold(),), (a_hold(),))


def test_apply_refused_hold_sends_only_the_announcement() -> None:
    request = a_request(state=State.VALIDATING_CREDITS, holds=(a_hold(state=HoldState.PLACING),))
    refused = a_hold(state=HoldState.REFUSED)
    change = apply_event(request, Event.CREDITS_REFUSED, hold=refused)
    assert change.after.holds == (refused,)
    assert topics(change) == ["notification.send"]


def test_apply_cancel_leaves_a_placing_hold_to_be_settled() -> None:
    request = a_request(state=State.VALIDATING_CREDITS, holds=(a_hold(state=HoldState.PLACING),))
    change = apply_event(request, Event.CANCEL_REQUESTED)
    assert change.after.placing == a_hold(state=HoldState.PLACING)
    assert topics(change) == ["notification.send"]


@pytest.mark.parametrize(
    ("hold", "uses_one"),
    [
        (an_allowance(), True),
        (an_allowance(state=HoldState.RELEASED), False),
        (a_hold(), False),
        (None, False),
    ],
)
def test_state_change_tells_whether_an_allowance_is_used(hold: Hold | None, uses_one: bool) -> None:
    change = apply_event(awaiting(), Event.REGENERATION_REQUESTED, hold=hold)
    assert change.allowance == (hold if uses_one else None)


# Announcements

SAYS: list[tuple[GenerationRequest, Event, str, str]] = [
    (
        a_request(state=State.PROCESSING_SAMPLES),
        Event.SAMPLES_DELIVERED,
        "samples_ready",
        "samples_ready",
    ),
    (making_final(), Event.FINAL_DELIVERED, "final_asset_ready", "completed"),
    (making_final(), Event.ATTEMPTS_EXHAUSTED, "generation_failed", "failed"),
    (making_final(), Event.INPUT_REFUSED, "generation_failed", "failed"),
    (making_final(), Event.OPERATOR_FAILED, "generation_failed", "failed"),
    (a_request(), Event.PROMPT_REJECTED, "generation_failed", "failed"),
    (a_request(), Event.DEADLINE_PASSED, "generation_failed", "failed"),
    (
        a_request(state=State.VALIDATING_CREDITS),
        Event.CREDITS_REFUSED,
        "generation_failed",
        "failed",
    ),
    (a_request(), Event.CANCEL_REQUESTED, "generation_cancelled", "cancelled"),
    (awaiting(), Event.EXPIRY_NEARED, "generation_expiring", "expiring"),
    (awaiting(), Event.DEADLINE_PASSED, "generation_expired", "expired"),
]
SAYINGS = [pytest.param(*row, id=f"{row[0].state}-{row[1]}") for row in SAYS]


@pytest.mark.parametrize(("request_", "event", "event_type", "published_as"), SAYINGS)
def test_apply_announcements_have_one_message_each(
    request_: GenerationRequest, event: Event, event_type: str, published_as: str
) -> None:
    change = apply_event(replace(request_, holds=()), event)
    assert topics(change) == ["notification.send"]
    assert announced(change)["event_type"] == event_type


@pytest.mark.parametrize(("request_", "event", "event_type", "published_as"), SAYINGS)
def test_apply_announcements_are_published_with_a_broker(
    request_: GenerationRequest, event: Event, event_type: str, published_as: str
) -> None:
    change = apply_event(replace(request_, holds=()), event, WITH_EVENTS)
    assert topics(change) == ["notification.send", "event.publish"]
    told, published = (message.body for message in change.messages)
    assert (told["event_type"], published["event_type"]) == (event_type, published_as)
    assert {**published, "event_type": ""} == {**told, "event_type": ""}, "the same event in both"


def test_apply_only_announcing_transitions_notify() -> None:
    speaking = {
        (state, event)
        for state, event in LIVE_ROWS
        if "notification.send" in topics(apply_event(a_request(state=state), event))
    }
    staying_silent = {
        "credits_held",
        "credits_asked",
        "job_leased",
        "job_returned",
        "job_not_taken",
        "samples_job_confirmed",
        "final_job_confirmed",
        "samples_started",
        "final_started",
        "progress_reported",
        "attempt_failed",
        "sample_selected",
        "regeneration_requested",
        "review_passed",
    }
    silent = {(state, event) for state, event in LIVE_ROWS if event in staying_silent}
    assert set(LIVE_ROWS) - speaking == silent | {(State.AWAITING_SELECTION, Event.CREDITS_REFUSED)}


def test_ready_samples_are_announced_with_all_that_a_listener_needs() -> None:
    request = a_request(
        state=State.PROCESSING_SAMPLES,
        holds=(a_hold(),),
        round=2,
        version=7,
        brief=a_brief(locale="de-DE"),
    )
    failures = ({"index": 3, "error_code": "unsafe_output", "message": "It did not pass."},)
    change = apply_event(
        request, Event.SAMPLES_DELIVERED, samples=four_samples()[:3], sample_failures=failures
    )
    assert announced(change) == {
        "event_id": "00000000-0000-0000-0000-000000000001",
        "event_type": "samples_ready",
        "user_id": "user-7",
        "correlation_id": "correlation-1",
        "locale": "de-DE",
        "at": "2026-03-14T09:26:53Z",
        "data": {
            "generation_request_id": str(REQUEST_ID),
            "status": "AWAITING_SELECTION",
            "stage": "samples",
            "round": 2,
            "project_id": "project-3",
            "samples": list(four_samples()[:3]),
            "sample_failures": list(failures),
            "credits_charged": "0.25",
        },
    }


def test_apply_final_announcement_has_the_picture_and_the_charge() -> None:
    rounds = (CAPTURED_SAMPLES, a_hold(round=2, state=HoldState.CAPTURED), FINAL_HOLD)
    data = announced(
        apply_event(making_final(holds=rounds), Event.FINAL_DELIVERED, final_asset=a_final())
    )["data"]
    assert data["final_asset"] == a_final()
    assert data["credits_charged"] == "1.50"
    assert (data["status"], data["stage"]) == ("COMPLETED", "final")


def test_apply_failure_announcement_has_the_message_and_no_charge() -> None:
    words = to_failure("model_timeout")
    data = announced(apply_event(making_final(), Event.ATTEMPTS_EXHAUSTED, failure=words))["data"]
    assert data["failure"] == words
    assert data["credits_charged"] == "0.25"


@pytest.mark.parametrize(("policy", "charged"), [(PLAIN, "0.25"), (GENEROUS, "0.00")])
def test_apply_rejection_announcement_has_the_charge(policy: Policy, charged: str) -> None:
    change = apply_event(
        a_request(holds=(a_hold(),)),
        Event.PROMPT_REJECTED,
        policy,
        failure=to_failure("prompt_rejected"),
    )
    assert announced(change)["data"]["credits_charged"] == charged
    assert announced(change)["data"]["failure"]["next_steps"] == ["adjust_prompt"]


def test_apply_cancellation_announcement_has_no_undelivered_charge() -> None:
    assert (
        announced(apply_event(a_request(holds=(a_hold(),)), Event.CANCEL_REQUESTED))["data"][
            "credits_charged"
        ]
        == "0.00"
    )


def test_apply_reminder_announcement_has_the_expiry() -> None:
    change = apply_event(awaiting(), Event.EXPIRY_NEARED)
    expires_at = datetime.fromisoformat(announced(change)["data"]["expires_at"])
    assert expires_at == datetime(2026, 3, 26, 9, 26, 53, tzinfo=UTC)
    assert change.after.remind_at is None


def test_apply_announcement_without_locale_has_no_language() -> None:
    assert announced(apply_event(a_request(), Event.CANCEL_REQUESTED))["locale"] is None


# The beginning


def begin(origin: Origin, hold: Hold | None = None) -> StateChange:
    context = Context(policy=PLAIN, now=NOW, new_id=new_ids())
    return apply(None, a_birth(origin, hold=hold, data={"by": "odoo"}), context)


def test_apply_funded_creation_queues_a_job() -> None:
    change = begin(Origin.FUNDED, an_allowance())
    assert (change.before, change.queues, change.messages) == (None, True, ())
    assert (change.holds, change.allowance) == ((an_allowance(),), an_allowance())
    assert (change.after.attempt, change.after.due_at, change.after.version) == (1, NOW, 1)
    assert change.after.job_id is not None
    assert [(line.event, line.state, line.data) for line in change.entries] == [
        ("submitted", State.PENDING, {"by": "odoo"})
    ]


def test_apply_creation_taking_credits_records_them() -> None:
    change = begin(Origin.FUNDED, a_hold())
    assert change.taking == a_hold()
    assert [line.event for line in change.entries] == ["submitted", "credits_held"]


def test_apply_creation_needing_credits_has_a_placing_hold_and_no_job() -> None:
    placing = a_hold(state=HoldState.PLACING)
    change = begin(Origin.NEEDS_CREDITS, placing)
    assert (change.queues, change.after.job_id, change.after.attempt) == (False, None, 0)
    assert (change.after.placing, change.holds, change.allowance) == (placing, (placing,), None)
    assert change.entries[0].state is State.VALIDATING_CREDITS


def test_apply_creation_in_review_has_the_review_deadline() -> None:
    change = begin(Origin.NEEDS_REVIEW)
    assert (change.queues, change.holds, change.after.job_id) == (False, (), None)
    assert change.after.state is State.VALIDATING_CREDITS
    assert change.after.deadline_at == NOW + PLAIN.review_deadline


def test_apply_creation_included_in_the_plan_has_no_hold() -> None:
    change = begin(Origin.FUNDED)
    assert (change.holds, change.after.holds, change.queues) == ((), (), True)


def test_apply_without_a_request_refuses_every_other_event() -> None:
    context = Context(policy=PLAIN, now=NOW, new_id=new_ids())
    with pytest.raises(TypeError, match="CancelRequested needs a request"):
        apply(None, CancelRequested(), context)


# Any path

JOB_EVENTS = {
    Stage.SAMPLES: {Event.SAMPLES_JOB_CONFIRMED, Event.SAMPLES_STARTED, Event.SAMPLES_DELIVERED},
    Stage.FINAL: {Event.FINAL_JOB_CONFIRMED, Event.FINAL_STARTED, Event.FINAL_DELIVERED},
}
ORDERS = {Event.SAMPLE_SELECTED, Event.REGENERATION_REQUESTED}
ABOUT_CREDITS = {Event.CREDITS_ASKED, Event.CREDITS_REFUSED}
ABOUT_REVIEW = {Event.REVIEW_PASSED, Event.REVIEW_REJECTED}
LENGTHS = st.integers(min_value=0, max_value=25)
POLICIES = st.sampled_from([PLAIN, GENEROUS, WITH_EVENTS])


@dataclass
class Journey:
    """One request led along legal events, with its holds given as the orchestrator gives them."""

    policy: Policy
    draw: st.DataObject
    request: GenerationRequest
    new_id: Any = field(default_factory=new_ids)
    changes: list[StateChange] = field(default_factory=list)

    def begin(self) -> None:
        """Submit the request: paid by credits, an allowance or the plan, or in review first."""
        if self.draw.draw(st.booleans(), label="in review"):
            pending: Any = {"event": Event.REVIEW_PASSED.value, "fields": {}}
            self.apply(None, a_birth(Origin.NEEDS_REVIEW, pending_action=pending))
            return
        funding = self.draw.draw(st.sampled_from(Funding), label="the samples are paid by")
        hold = self.hold_for(funding, Stage.SAMPLES, 1)
        origin = Origin.NEEDS_CREDITS if funding is Funding.CREDITS else Origin.FUNDED
        self.apply(None, a_birth(origin, hold=hold))

    def hold_for(self, funding: Funding, stage: Stage, round_number: int) -> Hold | None:
        """The hold as the orchestrator gives it at first."""
        match funding:
            case Funding.CREDITS:
                return a_hold(stage=stage, round=round_number, state=HoldState.PLACING)
            case Funding.ALLOWANCE:
                return an_allowance(stage=stage, round=round_number)
            case Funding.PLAN:
                return None

    def legal(self) -> list[Event]:
        """Return the events that the table and the commands allow."""
        request = self.request
        found = [event for state, event in LIVE_ROWS if state is request.state]
        other = JOB_EVENTS[Stage.FINAL if request.stage is Stage.SAMPLES else Stage.SAMPLES]
        found = [event for event in found if event not in other]
        if request.state is State.VALIDATING_CREDITS:
            asked = (
                {Event.CREDITS_HELD} if request.in_review else {*ABOUT_REVIEW, Event.CREDITS_ASKED}
            )
            found = [event for event in found if event not in asked]
        if request.state is State.AWAITING_SELECTION:
            pending = request.pending_action
            waiting = (
                {Event.CREDITS_REFUSED, Event(pending["event"])}
                if pending
                else {Event.CREDITS_ASKED, *ORDERS}
            )
            found = [
                event
                for event in found
                if event in waiting or event not in {*ORDERS, *ABOUT_CREDITS}
            ]
        staying = [event for event in found if TRANSITIONS[request.state, event].to not in TERMINAL]
        return staying * 4 + found

    def step(self) -> None:
        """Let one legal event happen."""
        event = self.draw.draw(st.sampled_from(self.legal()), label=str(self.request.state))
        self.apply(self.request, an_event(self.request, event, **self.fields_of(event)))

    def fields_of(self, event: Event) -> dict[str, Any]:
        """Return the fields that the commands set beside the event."""
        return (
            self.fields_after_review(event)
            if self.request.in_review
            else self.fields_otherwise(event)
        )

    def fields_after_review(self, event: Event) -> dict[str, Any]:
        """Return the fields after a review; the first hold is placed then."""
        fundings = {
            Event.REVIEW_PASSED: [Funding.ALLOWANCE, Funding.PLAN],
            Event.CREDITS_ASKED: [Funding.CREDITS],
        }
        if event not in fundings:
            return {}
        funding = self.draw.draw(st.sampled_from(fundings[event]), label="paid by")
        hold = {"hold": self.hold_for(funding, Stage.SAMPLES, 1)}
        return hold | ({"pending_action": None} if event is Event.CREDITS_ASKED else {})

    def fields_otherwise(self, event: Event) -> dict[str, Any]:
        """Return the fields without a review."""
        placing = self.request.placing
        match event:
            case Event.CREDITS_HELD:
                assert placing is not None
                return {"hold": replace(placing, state=HoldState.HELD)}
            case Event.CREDITS_REFUSED:
                assert placing is not None
                return {"hold": replace(placing, state=HoldState.REFUSED)}
            case Event.CREDITS_ASKED:
                order = self.draw.draw(st.sampled_from(sorted(ORDERS)), label="ordered")
                stage, round_number = self.stage_of(order)
                # A refused order may be made again; its hold has the key of its stage and round
                # again.
                return {
                    "hold": self.hold_for(Funding.CREDITS, stage, round_number),
                    "pending_action": {"event": order.value, "fields": {}},
                }
            case Event.SAMPLE_SELECTED | Event.REGENERATION_REQUESTED:
                stage, round_number = self.stage_of(event)
                if placing is not None:
                    hold: Hold | None = replace(placing, state=HoldState.HELD)
                else:
                    without_credits = st.sampled_from([Funding.ALLOWANCE, Funding.PLAN])
                    hold = self.hold_for(
                        self.draw.draw(without_credits, label="paid by"), stage, round_number
                    )
                return {"hold": hold}
            case _:
                return {}

    def stage_of(self, order: Event) -> tuple[Stage, int]:
        """The stage and round that an order of the user is for."""
        if order is Event.SAMPLE_SELECTED:
            return Stage.FINAL, self.request.round
        return Stage.SAMPLES, self.request.round + 1

    def apply(self, request: GenerationRequest | None, event: DomainEvent) -> None:
        """Apply the event, record the change and go on from there."""
        change = apply(request, event, Context(policy=self.policy, now=NOW, new_id=self.new_id))
        self.changes.append(change)
        self.request = change.after


def walked(data: st.DataObject) -> Journey:
    """Any path: as long as drawn, or until the request has ended."""
    journey = Journey(data.draw(POLICIES), data, a_request())
    journey.begin()
    for _ in range(data.draw(LENGTHS, label="length")):
        if journey.request.terminal:
            break
        journey.step()
    return journey


def check_step(change: StateChange) -> None:
    """Check the properties of a single change."""
    before, after = change.before, change.after
    (line,) = change.entries
    assert line.state is after.state
    assert [hold.key for hold in after.holds] == list(
        dict.fromkeys(hold.key for hold in after.holds)
    )
    assert set(change.holds) <= set(after.holds)
    held = [hold for hold in after.holds if hold.state is HoldState.HELD]
    assert not held or after.state in WITH_JOB
    assert len([hold for hold in after.holds if hold.state is HoldState.PLACING]) <= 1
    assert (after.deadline_at is not None) is (after.state in LIVE)
    if before is not None:
        assert after.version == before.version + 1
        assert TRANSITIONS[before.state, Event(line.event)].to is after.state
        assert {hold.key for hold in before.holds} <= {hold.key for hold in after.holds}, (
            "a hold is never forgotten"
        )


def check_money(journey: Journey) -> None:
    """Each hold is resolved at most once, its message written once, and captured means
    delivered.
    """
    settled: dict[str, HoldState] = {}
    owed: dict[str, str] = {}
    for change in journey.changes:
        event = change.entries[0].event
        for hold in change.holds:
            if settled.get(hold.key) in {HoldState.CAPTURED, HoldState.RELEASED}:
                pytest.fail(f"{hold.key} was resolved and changed again")
            settled[hold.key] = hold.state
            if hold.state is HoldState.CAPTURED:
                assert event in {"samples_delivered", "final_delivered", "prompt_rejected"}
                assert event != "prompt_rejected" or (
                    journey.policy.charge_rejected and hold.stage is Stage.SAMPLES
                )
        for message in change.messages:
            if message.topic.startswith("credits."):
                assert message.body["key"] not in owed, "one message for each hold"
                owed[message.body["key"]] = message.topic
    by_key = {hold.key: hold for hold in journey.request.holds}
    assert owed == {
        key: "credits.capture" if hold.state is HoldState.CAPTURED else "credits.release"
        for key, hold in by_key.items()
        if hold.funding is Funding.CREDITS
        and hold.state in {HoldState.CAPTURED, HoldState.RELEASED}
    }


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_path_state_timeline_and_credits_agree(data: st.DataObject) -> None:
    journey = walked(data)
    for change in journey.changes:
        check_step(change)
    check_money(journey)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_path_every_job_is_new(data: st.DataObject) -> None:
    journey = walked(data)
    jobs = [change.after.job_id for change in journey.changes if change.after.job_id is not None]
    runs = [job for job, previous in zip(jobs, [None, *jobs], strict=False) if job != previous]
    assert len(runs) == len(set(runs)), "a job that was left never comes back"


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_path_end_is_announced_once(data: st.DataObject) -> None:
    journey = walked(data)
    *_, last = journey.changes
    ended = [change for change in journey.changes if change.after.terminal]
    if not ended:
        return
    assert ended == [last]
    assert topics(last).count("notification.send") == 1
    for event in set(Event) - {Event.SUBMITTED}:
        with pytest.raises(IllegalTransitionError):
            apply_event(last.after, event)
