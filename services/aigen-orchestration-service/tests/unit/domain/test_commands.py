"""Commands of users and operators, without a database: events, refusals, repetitions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain import commands, errors
from creativeflow.services.aigeneration.domain.commands import (
    ALREADY_DONE,
    Offer,
    SampleChoice,
    Submission,
)
from creativeflow.services.aigeneration.domain.events import (
    CancelRequested,
    CreditsAsked,
    CreditsHeld,
    CreditsRefused,
    RegenerationRequested,
    ReviewPassed,
    SampleSelected,
)
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import LIVE, TERMINAL, Origin, State
from creativeflow.services.aigeneration.domain.model_routing import STANDARD
from creativeflow.services.aigeneration.domain.pricing import FREE, PAYG, PRO, Funding, Plan, Prices
from creativeflow.services.aigeneration.domain.request import GenerationRequest, HoldState
from tests.support.builders import NOW, REQUEST_ID, a_brief, a_hold, a_request, four_samples

CHOICE = SampleChoice(sample_id="sample-2")


def an_offer(
    plan: Plan = PAYG,
    *,
    stale: bool = False,
    quote: Callable[[], Mapping[str, str | None] | None] = lambda: None,
) -> Offer:
    return Offer(
        plan=plan,
        prices=Prices(),
        routing=STANDARD,
        by="odoo",
        now=NOW,
        open_quote=quote,
        stale=stale,
    )


def awaiting(**changes: Any) -> GenerationRequest:
    return a_request(**{"state": State.AWAITING_SELECTION, "samples": four_samples()} | changes)


def an_order(**changes: Any) -> Submission:
    values: dict[str, Any] = {
        "user_id": "user-7",
        "project_id": None,
        "brief": a_brief(),
        "metadata": {},
        "created_by": "odoo",
        "correlation_id": "correlation-1",
    }
    return Submission(**values | changes)


def test_submit_on_a_paying_plan_needs_credits() -> None:
    born = commands.submit(an_order(), REQUEST_ID, an_offer(), max_rounds=10, review=None)
    assert (born.origin, born.plan) == (Origin.NEEDS_CREDITS, "payg")
    assert born.hold is not None
    assert (born.hold.state, born.hold.amount) == (HoldState.PLACING, 25)
    assert born.data["charge"]["credits"] == "0.25"


def test_submit_on_the_free_plan_takes_an_allowance() -> None:
    born = commands.submit(an_order(), REQUEST_ID, an_offer(FREE), max_rounds=10, review=None)
    assert born.hold is not None
    assert (born.origin, born.hold.funding) == (Origin.FUNDED, Funding.ALLOWANCE)
    assert born.hold.state is HoldState.HELD


def test_submit_on_an_including_plan_holds_nothing() -> None:
    born = commands.submit(an_order(), REQUEST_ID, an_offer(PRO), max_rounds=10, review=None)
    assert (born.origin, born.hold) == (Origin.FUNDED, None)


def test_submit_for_review_holds_nothing_and_waits() -> None:
    born = commands.submit(an_order(), REQUEST_ID, an_offer(), max_rounds=10, review="nudity")
    assert (born.origin, born.hold) == (Origin.NEEDS_REVIEW, None)
    assert born.pending_action is not None
    assert born.pending_action["event"] == "review_passed"
    assert born.pending_action["fields"]["category"] == "nudity"


def test_submit_with_stale_entitlements_refuses_what_costs_credits() -> None:
    with pytest.raises(errors.CreditsUnavailableError):
        commands.submit(an_order(), REQUEST_ID, an_offer(stale=True), max_rounds=10, review=None)
    free = commands.submit(
        an_order(), REQUEST_ID, an_offer(FREE, stale=True), max_rounds=10, review=None
    )
    assert free.data["charge"]["entitlements"] == "stale"


def test_submit_at_another_price_than_quoted_is_refused() -> None:
    quoted = an_offer(quote=lambda: {"samples": "credits:24"})
    with pytest.raises(errors.QuoteExpiredError):
        commands.submit(an_order(), REQUEST_ID, quoted, max_rounds=10, review=None)


def test_take_credits_funds_the_birth() -> None:
    born = commands.submit(an_order(), REQUEST_ID, an_offer(), max_rounds=10, review=None)
    taken = commands.take_credits(born)
    assert taken.hold is not None
    assert (taken.origin, taken.hold.state) == (Origin.FUNDED, HoldState.HELD)


def test_select_sample_orders_the_final_in_the_formats_own_size() -> None:
    event = commands.select_sample(awaiting(), CHOICE, an_offer())
    assert isinstance(event, SampleSelected)
    assert (event.selected_sample_id, event.final_size) == ("sample-2", Size(1080, 1080))
    assert event.hold is not None
    assert (event.hold.amount, event.hold.state) == (100, HoldState.PLACING)
    assert event.data["selected_sample_id"] == "sample-2"


def test_select_sample_again_is_already_done_though_its_quote_has_expired() -> None:
    def expired() -> None:
        raise errors.QuoteExpiredError

    chosen = awaiting(selected_sample_id="sample-2", final_size=Size(1080, 1080))
    offer = an_offer(quote=expired)
    assert commands.select_sample(chosen, CHOICE, offer) is ALREADY_DONE


def test_select_sample_with_another_sample_is_refused() -> None:
    chosen = awaiting(selected_sample_id="sample-1", final_size=Size(1080, 1080))
    with pytest.raises(errors.AlreadySelectedError):
        commands.select_sample(chosen, CHOICE, an_offer())


def test_select_sample_of_another_round_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError):
        commands.select_sample(awaiting(), SampleChoice(sample_id="sample-9"), an_offer())


def test_select_sample_above_the_plans_size_is_refused() -> None:
    large = SampleChoice(sample_id="sample-2", resolution="4K")
    with pytest.raises(errors.PlanRequiredError):
        commands.select_sample(awaiting(), large, an_offer(FREE))


@pytest.mark.parametrize("state", sorted(set(State) - {State.AWAITING_SELECTION}))
def test_select_sample_in_any_other_state_is_refused(state: State) -> None:
    with pytest.raises(errors.IllegalTransitionError):
        commands.select_sample(a_request(state=state), CHOICE, an_offer())


def test_select_sample_while_a_hold_is_placed_is_refused() -> None:
    placing = awaiting(holds=(a_hold(state=HoldState.PLACING),))
    with pytest.raises(errors.ActionInProgressError):
        commands.select_sample(placing, CHOICE, an_offer())


def test_regenerate_samples_orders_the_next_round() -> None:
    event = commands.regenerate_samples(awaiting(), {"input_prompt": "A mill"}, an_offer())
    assert (event.round, event.brief["input_prompt"]) == (2, "A mill")
    assert "brief" not in event.data, "the prompt never stands in the timeline"


def test_regenerate_samples_after_the_last_round_is_refused() -> None:
    with pytest.raises(errors.TooManyRoundsError):
        commands.regenerate_samples(awaiting(round=10), {}, an_offer())


def test_begin_order_asks_for_credits_and_keeps_the_order() -> None:
    select = partial(commands.select_sample, choice=CHOICE, offer=an_offer())
    event = commands.begin_order(awaiting(), decide=select, takes_credits=False)
    assert isinstance(event, CreditsAsked)
    assert event.pending_action is not None
    assert event.pending_action["event"] == "sample_selected"
    assert event.selected_sample_id == "sample-2"


def test_begin_order_with_credits_of_our_own_takes_them_along() -> None:
    select = partial(commands.select_sample, choice=CHOICE, offer=an_offer())
    event = commands.begin_order(awaiting(), decide=select, takes_credits=True)
    assert isinstance(event, SampleSelected)
    assert event.hold is not None
    assert event.hold.state is HoldState.HELD


def test_resolve_hold_applies_the_pending_order() -> None:
    select = partial(commands.select_sample, choice=CHOICE, offer=an_offer())
    asked = commands.begin_order(awaiting(), decide=select, takes_credits=False)
    assert isinstance(asked, CreditsAsked)
    waiting = awaiting(
        holds=(asked.hold,), pending_action=asked.pending_action, selected_sample_id="sample-2"
    )
    held = commands.resolve_hold(waiting, replace(asked.hold, state=HoldState.HELD))
    assert isinstance(held, SampleSelected)
    assert held.final_size == Size(1080, 1080)
    refused = commands.resolve_hold(waiting, replace(asked.hold, state=HoldState.REFUSED))
    assert isinstance(refused, CreditsRefused)
    assert refused.failure is None, "the samples stay, the user may choose again"


def test_resolve_hold_applies_a_pending_round() -> None:
    again = partial(
        commands.regenerate_samples, brief_changes={"input_prompt": "A mill"}, offer=an_offer()
    )
    asked = commands.begin_order(awaiting(), decide=again, takes_credits=False)
    assert isinstance(asked, CreditsAsked)
    waiting = awaiting(holds=(asked.hold,), pending_action=asked.pending_action)
    held = commands.resolve_hold(waiting, replace(asked.hold, state=HoldState.HELD))
    assert isinstance(held, RegenerationRequested)
    assert (held.round, held.brief["input_prompt"]) == (2, "A mill")


def test_resolve_hold_of_the_first_samples() -> None:
    placing = a_hold(state=HoldState.PLACING)
    new = a_request(state=State.VALIDATING_CREDITS, holds=(placing,))
    assert isinstance(commands.resolve_hold(new, a_hold()), CreditsHeld)
    refused = commands.resolve_hold(new, a_hold(state=HoldState.REFUSED))
    assert isinstance(refused, CreditsRefused)
    assert refused.failure is not None
    assert refused.failure["code"] == "insufficient_credits"


def test_resolve_hold_that_nothing_waits_for_is_already_done() -> None:
    other = a_hold(key="another", state=HoldState.PLACING)
    new = a_request(state=State.VALIDATING_CREDITS, holds=(other,))
    assert commands.resolve_hold(new, a_hold()) is ALREADY_DONE


@pytest.mark.parametrize("state", sorted(State))
def test_cancel_ends_what_is_live(state: State) -> None:
    event = commands.cancel(a_request(state=state), by="odoo")
    assert isinstance(event, CancelRequested) is (state in LIVE)
    assert (event is ALREADY_DONE) is (state in TERMINAL)


def in_review(**changes: Any) -> GenerationRequest:
    pending = {"event": "review_passed", "fields": {"category": "nudity"}}
    return a_request(
        **{"state": State.VALIDATING_CREDITS, "job_id": None, "pending_action": pending} | changes
    )


def test_accept_review_without_a_stored_charge_costs_the_current_price() -> None:
    event = commands.accept_review(in_review(), an_offer())
    assert isinstance(event, CreditsAsked)
    assert (event.plan, event.pending_action) == ("payg", None)
    free = commands.accept_review(in_review(), an_offer(FREE))
    assert isinstance(free, ReviewPassed)
    assert free.hold is not None


@pytest.mark.parametrize(
    ("submitted", "price_now", "charged"), [(25, 500, 25), (25, 10, 10), (25, 25, 25)]
)
def test_accept_review_costs_no_more_than_at_submission(
    submitted: int, price_now: int, charged: int
) -> None:
    stored = {"action": "sample_generation", "funding": "credits", "amount": submitted}
    pending: Any = {"event": "review_passed", "fields": {"category": "c", "charge": stored}}
    offer = replace(an_offer(), prices=Prices(sample_set=price_now))
    event = commands.accept_review(in_review(pending_action=pending), offer)
    assert isinstance(event, CreditsAsked)
    assert event.hold.amount == charged


def test_accept_review_of_a_request_that_the_plan_paid_for_stays_so() -> None:
    stored = {"action": "sample_generation", "funding": "plan", "amount": 0}
    pending: Any = {"event": "review_passed", "fields": {"category": "c", "charge": stored}}
    event = commands.accept_review(in_review(pending_action=pending), an_offer())
    assert isinstance(event, ReviewPassed)
    assert event.hold is None


def test_submit_for_review_stores_the_charge_that_binds() -> None:
    submitted = commands.submit(
        an_order(), REQUEST_ID, an_offer(), max_rounds=10, review="category"
    )
    assert submitted.pending_action is not None
    charge = submitted.pending_action["fields"]["charge"]
    assert charge == {"action": "sample_generation", "funding": "credits", "amount": 25}


def test_review_decisions_on_what_is_not_in_review_are_already_done() -> None:
    request = a_request()
    assert commands.accept_review(request, an_offer()) is ALREADY_DONE
    assert commands.reject_review(request, by="duty") is ALREADY_DONE
    assert commands.refuse_reviewed(request) is ALREADY_DONE


def test_retried_brief_of_a_rejected_prompt_must_be_another_one() -> None:
    rejected = a_request(state=State.CONTENT_REJECTED)
    with pytest.raises(errors.InvalidRequestError):
        commands.retried_brief(rejected, {})
    changed = commands.retried_brief(rejected, {"input_prompt": "A mill"})
    assert changed["input_prompt"] == "A mill"


@pytest.mark.parametrize("state", sorted(LIVE | {State.COMPLETED}))
def test_retried_brief_of_a_live_or_completed_request_is_refused(state: State) -> None:
    with pytest.raises(errors.InvalidStateError):
        commands.retried_brief(a_request(state=state), {})
