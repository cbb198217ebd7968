"""The outcome of webhook attempts: the schedule of the specification, its end, and endpoints that
are gone.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, Event, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.transitions import Context, Topic, apply
from creativeflow.services.aigeneration.domain.webhooks import (
    FAILING_MAX,
    SCHEDULE,
    Attempt,
    Delivered,
    DeliveryError,
    Disable,
    DisabledReason,
    Exhausted,
    RetryLater,
    classify_attempt,
)
from tests.support.builders import NOW, a_request, an_event, four_samples, new_ids

FAILED = Attempt(status=500, trouble=DeliveryError.BAD_STATUS, duration_ms=1)


def test_classify_attempt_follows_the_schedule_of_the_specification() -> None:
    found = [
        classify_attempt(FAILED, tries=tries, failing_since=None, now=NOW) for tries in range(1, 11)
    ]
    assert found[:9] == [
        RetryLater(timedelta(**wait))
        for wait in (
            {"seconds": 5},
            {"minutes": 5},
            {"minutes": 30},
            {"hours": 2},
            {"hours": 5},
            {"hours": 10},
            {"hours": 14},
            {"hours": 20},
            {"hours": 24},
        )
    ]
    assert found[9] == Exhausted("given up after 10 tries: bad_status 500")


def test_jitter_stretches_the_wait() -> None:
    assert classify_attempt(FAILED, tries=2, failing_since=None, now=NOW, jitter=0.9) == RetryLater(
        SCHEDULE[1] * 0.9
    )


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (timedelta(0), timedelta(seconds=5)),
        (timedelta(seconds=90), timedelta(seconds=90)),
        (timedelta(days=9), timedelta(days=1)),
    ],
)
def test_classify_attempt_retry_after_is_bounded(asked: timedelta, wait: timedelta) -> None:
    busy = Attempt(status=429, trouble=DeliveryError.BAD_STATUS, duration_ms=1, retry_after=asked)
    assert classify_attempt(busy, tries=1, failing_since=None, now=NOW) == RetryLater(wait)


def test_classify_attempt_gone_or_failing_for_days_disables() -> None:
    gone = Attempt(status=410, trouble=DeliveryError.GONE, duration_ms=1)
    assert classify_attempt(gone, tries=1, failing_since=None, now=NOW) == Disable(
        DisabledReason.GONE
    )
    assert classify_attempt(FAILED, tries=1, failing_since=NOW - FAILING_MAX, now=NOW) == Disable(
        DisabledReason.FAILING
    )
    just_not = NOW - FAILING_MAX + timedelta(seconds=1)
    assert classify_attempt(FAILED, tries=1, failing_since=just_not, now=NOW) == RetryLater(
        SCHEDULE[0]
    )
    taken = Attempt(status=200, trouble=None, duration_ms=1)
    assert classify_attempt(taken, tries=1, failing_since=NOW - FAILING_MAX, now=NOW) == Delivered()


@pytest.mark.parametrize(
    ("state", "event"),
    [key for key, move in TRANSITIONS.items() if "announce" in str(move.effects)],
)
def test_announcements_carry_the_resource(state: State, event: Event) -> None:
    request = a_request(state=state, samples=four_samples(), final_asset=four_samples()[0])
    happened = an_event(request, event)
    context = Context(policy=Policy(webhooks=True), now=NOW, new_id=new_ids())
    change = apply(request, happened, context)
    (message,) = [message for message in change.messages if message.topic == Topic.WEBHOOK]
    (notification,) = [message for message in change.messages if message.topic == Topic.NOTIFY]
    assert message.body["told"]["data"] == to_resource(change.after)
    assert message.body["event_id"] == notification.body["event_id"]
    silent = apply(request, happened, replace(context, policy=Policy(), new_id=new_ids()))
    assert Topic.WEBHOOK not in {message.topic for message in silent.messages}
    assert [message for message in change.messages if message is not change.messages[-1]] == list(
        silent.messages
    )
    assert replace(change, messages=()) == replace(silent, messages=())
