"""What a try comes to: the schedule of the specification, its end, and targets that are gone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from creativeflow.services.aigeneration.domain.lifecycle import MOVES, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.representation import resource
from creativeflow.services.aigeneration.domain.transitions import Topic, carry_out
from creativeflow.services.aigeneration.domain.webhooks import (
    FAILING_MAX,
    SCHEDULE,
    Again,
    Attempt,
    Delivered,
    Disable,
    DisabledReason,
    Exhausted,
    Trouble,
    judge,
)
from tests.support.builders import NOW, a_request, four_samples, new_ids

FAILED = Attempt(status=500, trouble=Trouble.BAD_STATUS, duration_ms=1)


def test_the_schedule_is_the_one_of_the_specification() -> None:
    found = [judge(FAILED, tries=tries, failing_since=None, now=NOW) for tries in range(1, 11)]
    assert found[:9] == [
        Again(timedelta(**wait))
        for wait in (
            {"seconds": 5}, {"minutes": 5}, {"minutes": 30}, {"hours": 2}, {"hours": 5}, {"hours": 10}, {"hours": 14},
            {"hours": 20}, {"hours": 24},
        )
    ]  # fmt: skip
    assert found[9] == Exhausted("given up after 10 tries: bad_status 500")


def test_jitter_stretches_the_wait() -> None:
    assert judge(FAILED, tries=2, failing_since=None, now=NOW, jitter=0.9) == Again(SCHEDULE[1] * 0.9)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (timedelta(0), timedelta(seconds=5)), (timedelta(seconds=90), timedelta(seconds=90)),
        (timedelta(days=9), timedelta(days=1)),
    ],
)  # fmt: skip
def test_a_receiver_can_ask_for_more_time_but_not_for_ever(asked: timedelta, wait: timedelta) -> None:
    busy = Attempt(status=429, trouble=Trouble.BAD_STATUS, duration_ms=1, retry_after=asked)
    assert judge(busy, tries=1, failing_since=None, now=NOW) == Again(wait)


def test_a_target_that_is_gone_or_has_failed_for_days_is_disabled() -> None:
    gone = Attempt(status=410, trouble=Trouble.GONE, duration_ms=1)
    assert judge(gone, tries=1, failing_since=None, now=NOW) == Disable(DisabledReason.GONE)
    assert judge(FAILED, tries=1, failing_since=NOW - FAILING_MAX, now=NOW) == Disable(DisabledReason.FAILING)
    just_not = NOW - FAILING_MAX + timedelta(seconds=1)
    assert judge(FAILED, tries=1, failing_since=just_not, now=NOW) == Again(SCHEDULE[0])
    taken = Attempt(status=200, trouble=None, duration_ms=1)
    assert judge(taken, tries=1, failing_since=NOW - FAILING_MAX, now=NOW) == Delivered()


@pytest.mark.parametrize(("state", "event"), [key for key, move in MOVES.items() if "announce" in str(move.effects)])
def test_every_announcement_tells_targets_the_resource_as_it_then_is(state: State, event: object) -> None:
    request = a_request(state=state, samples=four_samples(), final_asset=four_samples()[0])
    change = carry_out(request, event, policy=Policy(webhooks=True), now=NOW, new_id=new_ids())  # type: ignore[arg-type]
    (debt,) = [debt for debt in change.debts if debt.topic == Topic.WEBHOOK]
    (notification,) = [debt for debt in change.debts if debt.topic == Topic.NOTIFY]
    assert debt.body["told"]["data"] == resource(change.after)
    assert debt.body["event_id"] == notification.body["event_id"]
    silent = carry_out(request, event, policy=Policy(), now=NOW, new_id=new_ids())  # type: ignore[arg-type]
    assert Topic.WEBHOOK not in {debt.topic for debt in silent.debts}
    assert [debt for debt in change.debts if debt is not change.debts[-1]] == list(silent.debts)
    assert replace(change, debts=()) == replace(silent, debts=())
