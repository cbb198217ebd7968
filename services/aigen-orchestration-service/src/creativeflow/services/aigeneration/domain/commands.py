"""Commands of users and operators: pure functions from a request and an order to an event.

Each returns the event to apply, or `AlreadyDone` if the order has been carried out before, and
raises an error if it is refused. Worker reports and deadlines are in `job_commands.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain import errors, worker_errors
from creativeflow.services.aigeneration.domain.events import (
    CancelRequested,
    CreditsAsked,
    CreditsHeld,
    CreditsRefused,
    DomainEvent,
    OperatorFailed,
    Order,
    RegenerationRequested,
    ReviewPassed,
    ReviewRejected,
    SampleSelected,
    Submitted,
)
from creativeflow.services.aigeneration.domain.formats import final_size
from creativeflow.services.aigeneration.domain.lifecycle import Event, Origin, Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Asked, ModelChoice, Routing
from creativeflow.services.aigeneration.domain.ordering import (
    as_held,
    bound_charge,
    charge_data,
    check_model,
    check_plan,
    check_quote,
    check_selectable,
    hold_for,
    is_repeat,
    is_waiting_for,
    stored_charge,
    to_route,
)
from creativeflow.services.aigeneration.domain.pricing import (
    Charge,
    Funding,
    Plan,
    Prices,
    credits_text,
    is_high_resolution,
    price_final,
    price_samples,
)
from creativeflow.services.aigeneration.domain.request import (
    Brief,
    GenerationRequest,
    Hold,
    HoldState,
)
from creativeflow.services.aigeneration.domain.worker_errors import to_failure


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The order has been carried out before; nothing needs to be written."""


ALREADY_DONE = AlreadyDone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A validated order for a new request."""

    user_id: str
    project_id: str | None
    brief: Brief
    metadata: Mapping[str, Any]
    created_by: str
    correlation_id: str
    traceparent: str | None = None
    retry_of: UUID | None = None
    quote_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an order is priced by: the user's plan, the price list, the models, and a quote.

    `open_quote` returns the quoted terms, None without a quote. It is called only if something is
    to be paid, so that a repeated order succeeds although its quote has expired. `stale`: the
    entitlements are some minutes old, which suffices for free work only.
    """

    plan: Plan
    prices: Prices
    routing: Routing
    by: str
    now: datetime
    open_quote: Callable[[], Mapping[str, str | None] | None]
    stale: bool = False

    def choose_model(self, stage: Stage, brief: Brief, user_id: str) -> ModelChoice:
        """Return the model of a stage by the routing rules in force."""
        asked = Asked(
            stage=stage,
            plan=self.plan,
            output_format=brief["output_format"],
            user_id=user_id,
            named=brief.get("model"),
        )
        return self.routing.choose(asked)

    def check_payable(self, charge: Charge) -> dict[str, Any]:
        """Return the charge for the timeline.

        Raises:
            QuoteExpiredError: the charge differs from the quote.
            CreditsUnavailableError: the action costs credits, and the entitlements are stale.
        """
        check_quote(self.open_quote(), charge)
        return self.describe(charge)

    def describe(self, charge: Charge) -> dict[str, Any]:
        """Return the charge for the timeline, marked if it is based on stale entitlements.

        Raises:
            CreditsUnavailableError: the action costs credits, and the entitlements are stale.
        """
        if not self.stale:
            return charge_data(charge)
        if charge.funding is Funding.CREDITS:
            raise errors.CreditsUnavailableError(retry_after_seconds=5)
        return charge_data(charge) | {"entitlements": "stale"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleChoice:
    """The sample that a user selects, and the options of the final."""

    sample_id: str
    resolution: str | None = None
    file_format: str | None = None


def submit(
    order: Submission, request_id: UUID, offer: Offer, *, max_rounds: int, review: str | None
) -> Submitted:
    """Create a request; `review` is the moderation category that requires a review.

    Raises:
        PlanRequiredError, QuoteExpiredError, CreditsUnavailableError
    """
    choice = offer.choose_model(Stage.SAMPLES, order.brief, order.user_id)
    check_plan(offer.plan, order.brief, offer.prices, choice.model)
    charge = price_samples(offer.plan, offer.prices, choice.model.surcharge)
    route = to_route(choice)
    data: dict[str, Any] = {
        "by": order.created_by,
        "charge": offer.check_payable(charge),
        "retry_of": order.retry_of,
        "route": route,
    }
    hold = hold_for(charge, request_id, Stage.SAMPLES, 1, offer.now)
    origin = Origin.NEEDS_CREDITS if charge.funding is Funding.CREDITS else Origin.FUNDED
    submitted = Submitted(
        origin=origin,
        id=request_id,
        user_id=order.user_id,
        project_id=order.project_id,
        created_by=order.created_by,
        correlation_id=order.correlation_id,
        traceparent=order.traceparent,
        plan=offer.plan.name,
        brief=order.brief,
        metadata=order.metadata,
        retry_of=order.retry_of,
        max_rounds=max_rounds,
        route=route,
        hold=hold,
        data=data,
    )
    if review is None:
        return submitted
    return replace(
        submitted,
        origin=Origin.NEEDS_REVIEW,
        hold=None,
        pending_action={
            "event": Event.REVIEW_PASSED.value,
            "fields": {"category": review, "charge": stored_charge(charge)},
        },
        data=data | {"review": review},
    )


def take_credits(submitted: Submitted) -> Submitted:
    """Return the creation event whose statement also takes the credits."""
    assert submitted.hold is not None  # noqa: S101 - only what costs credits comes here
    return replace(submitted, origin=Origin.FUNDED, hold=as_held(submitted.hold))


def retried_brief(request: GenerationRequest, changes: Mapping[str, Any]) -> Brief:
    """Return the brief of a retried request.

    Raises:
        InvalidStateError: the request is live or was completed.
        InvalidRequestError: its prompt was rejected and is unchanged.
    """
    if not request.terminal or request.state is State.COMPLETED:
        raise errors.InvalidStateError(state=request.state)
    brief = Brief(**{**request.brief, **changes})  # type: ignore[typeddict-item]
    unchanged = brief["input_prompt"] == request.brief["input_prompt"]
    if request.state is State.CONTENT_REJECTED and unchanged:
        raise errors.InvalidRequestError.at(
            "/updated_prompt",
            "prompt_unchanged",
            "The prompt was rejected as it is: send another one.",
        )
    return brief


def select_sample(
    request: GenerationRequest, choice: SampleChoice, offer: Offer
) -> SampleSelected | AlreadyDone:
    """Select one sample and order its final (REQ-009); a repeated selection is `AlreadyDone`.

    Raises:
        AlreadySelectedError, ActionInProgressError, IllegalTransitionError, InvalidRequestError,
        PlanRequiredError, QuoteExpiredError, CreditsUnavailableError
    """
    if request.selected_sample_id is not None:
        if not is_repeat(request, choice.sample_id, choice.resolution, choice.file_format):
            raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
        return ALREADY_DONE
    check_selectable(request, Event.SAMPLE_SELECTED)
    if choice.sample_id not in {sample["asset_id"] for sample in request.samples}:
        raise errors.InvalidRequestError.at(
            "/selected_sample_id", "unknown_sample", "Pick one of the request's current `samples`."
        )
    size = final_size(request.dimensions, choice.resolution)
    if is_high_resolution(offer.prices, size.longest) and not offer.plan.high_resolution:
        raise errors.PlanRequiredError(feature="A high-resolution final", plan="Pro")
    routed = offer.choose_model(Stage.FINAL, request.brief, request.user_id)
    check_model(offer.plan, routed.model)
    charge = price_final(
        offer.plan, offer.prices, longest_side=size.longest, surcharge=routed.model.surcharge
    )
    selected = SampleSelected(
        selected_sample_id=choice.sample_id,
        final_size=size,
        file_format=choice.file_format or request.file_format,
        plan=offer.plan.name,
        route=to_route(routed),
        hold=hold_for(
            charge, request.id, Stage.FINAL, request.round, offer.now, earlier=request.holds
        ),
    )
    charged = offer.check_payable(charge)
    return replace(selected, data={"by": offer.by, "charge": charged, **selected.to_json()})


def regenerate_samples(
    request: GenerationRequest, brief_changes: Mapping[str, str], offer: Offer
) -> RegenerationRequested:
    """Order another round of samples, at the price of a sample set (REQ-008).

    Raises:
        AlreadySelectedError, ActionInProgressError, IllegalTransitionError, TooManyRoundsError,
        PlanRequiredError, QuoteExpiredError, CreditsUnavailableError
    """
    check_selectable(request, Event.REGENERATION_REQUESTED)
    if request.selected_sample_id is not None:
        raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
    if request.round >= request.max_rounds:
        raise errors.TooManyRoundsError(limit=request.max_rounds)
    brief = Brief(**{**request.brief, **brief_changes})  # type: ignore[typeddict-item]
    routed = offer.choose_model(Stage.SAMPLES, brief, request.user_id)
    check_model(offer.plan, routed.model)
    charge = price_samples(offer.plan, offer.prices, routed.model.surcharge)
    round_number = request.round + 1
    ordered = RegenerationRequested(
        round=round_number,
        brief=brief,
        plan=offer.plan.name,
        route=to_route(routed),
        hold=hold_for(
            charge, request.id, Stage.SAMPLES, round_number, offer.now, earlier=request.holds
        ),
    )
    charged = offer.check_payable(charge)
    return replace(ordered, data={"by": offer.by, "charge": charged, **ordered.to_json()})


def begin_order(
    request: GenerationRequest,
    *,
    decide: Callable[[GenerationRequest], Order | AlreadyDone],
    takes_credits: bool,
) -> DomainEvent | AlreadyDone:
    """Return the event that `decide` orders, or the event that places its hold first.

    `takes_credits`: the credits are in our own database, and the statement of the event takes them.
    """
    order = decide(request)
    if isinstance(order, AlreadyDone):
        return order
    hold = order.hold
    if hold is None or hold.state is HoldState.HELD:
        return order
    if takes_credits:
        return replace(order, hold=as_held(hold))
    selected = request.selected_sample_id
    if isinstance(order, SampleSelected):
        selected = order.selected_sample_id
    return CreditsAsked(
        hold=hold,
        plan=request.plan,
        pending_action=order.to_pending(),
        selected_sample_id=selected,
        data=order.data,
    )


def resolve_hold(request: GenerationRequest, hold: Hold) -> DomainEvent | AlreadyDone:
    """Apply the credit service's answer for a hold that the request waits for.

    `hold` has the answered state, HELD or REFUSED.
    """
    if not is_waiting_for(request, hold):
        return ALREADY_DONE
    data = {"hold": hold.key, "credits": credits_text(hold.amount)}
    if hold.state is HoldState.REFUSED:
        ends = request.state is State.VALIDATING_CREDITS
        failure = to_failure(worker_errors.INSUFFICIENT_CREDITS) if ends else None
        return CreditsRefused(hold=hold, failure=failure, data=data)
    pending = request.pending_action
    if pending is None:
        return CreditsHeld(hold=hold, data=data)
    if pending["event"] == Event.SAMPLE_SELECTED:
        return SampleSelected.from_pending(pending["fields"], hold, data)
    return RegenerationRequested.from_pending(request, pending["fields"], hold, data)


def cancel(request: GenerationRequest, *, by: str) -> CancelRequested | AlreadyDone:
    """Cancel a live request; an ended one is left unchanged."""
    return ALREADY_DONE if request.terminal else CancelRequested(data={"by": by})


def force_fail(
    _: GenerationRequest, *, by: str, reason: str, note: str | None = None
) -> OperatorFailed:
    """End a live request on behalf of an operator; the user sees the reason, not the note."""
    data = {"by": by, "reason": reason} | ({"note": note} if note else {})
    return OperatorFailed(failure=to_failure(worker_errors.OPERATOR_ENDED), data=data)


def accept_review(
    request: GenerationRequest, offer: Offer
) -> ReviewPassed | CreditsAsked | AlreadyDone:
    """Accept a reviewed prompt at the price of its submission, or the current one if that is lower.

    Raises:
        CreditsUnavailableError: the request costs credits, and the entitlements are stale.
    """
    if request.pending_action is None or not request.in_review:
        return ALREADY_DONE
    choice = offer.choose_model(Stage.SAMPLES, request.brief, request.user_id)
    current = price_samples(offer.plan, offer.prices, choice.model.surcharge)
    charge = bound_charge(request.pending_action["fields"].get("charge"), current)
    data = {"by": offer.by, "review": "passed", "charge": offer.describe(charge)}
    hold = hold_for(
        charge, request.id, Stage.SAMPLES, request.round, offer.now, earlier=request.holds
    )
    if hold is not None and charge.funding is Funding.CREDITS:
        return CreditsAsked(
            hold=hold,
            plan=offer.plan.name,
            pending_action=None,
            selected_sample_id=request.selected_sample_id,
            data=data,
        )
    return ReviewPassed(plan=offer.plan.name, hold=hold, data=data)


def reject_review(request: GenerationRequest, *, by: str) -> ReviewRejected | AlreadyDone:
    """Reject a reviewed prompt."""
    if not request.in_review:
        return ALREADY_DONE
    return ReviewRejected(failure=to_failure(worker_errors.PROMPT_REFUSED), data={"by": by})


def refuse_reviewed(request: GenerationRequest) -> CreditsRefused | AlreadyDone:
    """End a reviewed request whose allowance has been used up.

    A refusal by the credit service has already been written.
    """
    if not request.in_review:
        return ALREADY_DONE
    return CreditsRefused(failure=to_failure(worker_errors.INSUFFICIENT_CREDITS))
