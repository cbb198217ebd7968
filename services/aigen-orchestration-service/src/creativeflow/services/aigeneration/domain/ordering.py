"""Orders: plan checks, prices, quotes and holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.errors import (
    ActionInProgressError,
    IllegalTransitionError,
    PlanRequiredError,
    QuoteExpiredError,
)
from creativeflow.services.aigeneration.domain.formats import SIDE_MAX, Size, final_size
from creativeflow.services.aigeneration.domain.lifecycle import Event, Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Model, ModelChoice
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    PRO,
    Charge,
    Funding,
    Plan,
    Prices,
    credits_text,
    hold_key,
    is_high_resolution,
    price_final,
    price_samples,
)
from creativeflow.services.aigeneration.domain.request import (
    Brief,
    GenerationRequest,
    Hold,
    HoldState,
    Route,
    dimensions_of,
)


def check_plan(plan: Plan, brief: Brief, prices: Prices, model: Model) -> None:
    """Check that the plan allows the order (REQ-006, REQ-016).

    Raises:
        PlanRequiredError: a feature is missing; the error names the plan that has it.
    """
    if brief.get("brand_kit_id") and not plan.brand_kit:
        raise PlanRequiredError(feature="A brand kit", plan="Pro")
    if is_high_resolution(prices, dimensions_of(brief).longest) and not plan.high_resolution:
        raise PlanRequiredError(feature="A format this large", plan="Pro")
    check_model(plan, model)


def check_model(plan: Plan, model: Model) -> None:
    """Check that the plan includes the model; the Free plan has none with a surcharge, because it
    never uses credits.

    Raises:
        PlanRequiredError: the plan does not include it.
    """
    having = [other.title for other in PLANS.values() if model.serves(min(model.stages), other)]
    if plan.title not in having:
        feature = "An advanced model" if model.surcharge else "This model"
        raise PlanRequiredError(feature=feature, plan="Pro" if PRO.title in having else having[0])


def to_route(choice: ModelChoice) -> Route:
    """Convert a model choice to the route that the request stores."""
    return Route(
        chosen=choice.model.name,
        reason=choice.reason,
        provider=choice.model.provider,
        strategy=choice.model.strategy.value,
    )


def route_for_attempt(route: Route | None, model: Model) -> Route:
    """Return the route of an attempt; the existing one if the model is unchanged."""
    if route is None:
        return to_route(ModelChoice(model=model, reason="named before"))
    if route["provider"] == model.provider and route["strategy"] == model.strategy.value:
        return route
    return {**route, "provider": model.provider, "strategy": model.strategy.value}


def check_selectable(request: GenerationRequest, event: Event) -> None:
    """Check that a sample can be selected now.

    Raises:
        ActionInProgressError: an earlier selection is waiting for the credit service.
        IllegalTransitionError: there are no samples to select from.
    """
    if request.placing is not None and not request.terminal:
        raise ActionInProgressError
    if request.state is not State.AWAITING_SELECTION:
        raise IllegalTransitionError(state=request.state, event=event)


def build_quote(
    plan: Plan, brief: Brief, prices: Prices, models: Mapping[Stage, Model], *, balance: int | None
) -> dict[str, Any]:
    """Return the prices of a brief; the total is one sample set and the final in the size of the
    format.
    """
    size, final = dimensions_of(brief), models[Stage.FINAL]
    largest = [] if is_high_resolution(prices, size.longest) else [size.scaled(SIDE_MAX)]
    samples = price_samples(plan, prices, models[Stage.SAMPLES].surcharge)
    priced: list[tuple[Stage, Size | None, Charge]] = [(Stage.SAMPLES, None, samples)]
    priced += [
        (
            Stage.FINAL,
            each,
            price_final(plan, prices, longest_side=each.longest, surcharge=final.surcharge),
        )
        for each in (size, *(largest if plan.high_resolution else []))
    ]
    counted = 2
    total = sum(charge.amount for _, _, charge in priced[:counted])
    return {
        "plan": plan.name,
        "items": [
            {
                "stage": stage.value,
                "resolution": str(size) if size else None,
                "model": models[stage].name,
            }
            | charge_data(charge)
            | {"included_in_total": position < counted}
            for position, (stage, size, charge) in enumerate(priced)
        ],
        "total": credits_text(total),
        "balance": None if balance is None else credits_text(balance),
        "balance_after": None if balance is None else credits_text(balance - total),
        "watermark": plan.watermark,
    }


def quote_terms(plan: Plan, prices: Prices, models: Mapping[Stage, Model]) -> dict[str, str | None]:
    """Return the terms of a quote: the prices of a sample set, of a standard and of a
    high-resolution final; None for what the plan does not include.
    """
    surcharge = models[Stage.FINAL].surcharge
    high = price_final(
        plan, prices, longest_side=prices.high_resolution_above + 1, surcharge=surcharge
    )
    return {
        "samples": _priced(price_samples(plan, prices, models[Stage.SAMPLES].surcharge)),
        "final": _priced(price_final(plan, prices, longest_side=1, surcharge=surcharge)),
        "high": _priced(high) if plan.high_resolution else None,
    }


def check_quote(quoted: Mapping[str, str | None] | None, charge: Charge) -> None:
    """Check that an action costs what its quote states and is paid by the same funding; without a
    quote any price is accepted.

    Raises:
        QuoteExpiredError: the price differs; nothing is charged and the caller needs a new quote.
    """
    item = {"sample_generation": "samples", "hd_export": "high"}.get(charge.action, "final")
    if quoted is not None and quoted.get(item) != _priced(charge):
        raise QuoteExpiredError


def _priced(charge: Charge) -> str:
    return f"{charge.funding}:{charge.amount}"


def charge_data(charge: Charge) -> dict[str, str]:
    """Return a charge as shown in the timeline and in quotes."""
    return {
        "action": charge.action,
        "paid_by": charge.funding.value,
        "credits": credits_text(charge.amount),
    }


def stored_charge(charge: Charge) -> dict[str, Any]:
    """Return a charge as a pending action stores it; see `bound_charge`."""
    return {"action": charge.action, "funding": charge.funding.value, "amount": charge.amount}


def bound_charge(stored: Mapping[str, Any] | None, current: Charge) -> Charge:
    """Return the charge of an order that waited for a review: the one of its submission, or the
    current one if that is lower or none was stored.
    """
    if stored is None or current.amount < stored["amount"]:
        return current
    return Charge(
        action=stored["action"], funding=Funding(stored["funding"]), amount=stored["amount"]
    )


def hold_for(
    charge: Charge,
    request_id: UUID,
    stage: Stage,
    round_number: int,
    now: datetime,
    *,
    earlier: Sequence[Hold] = (),
) -> Hold | None:
    """Return the initial hold of a charge: placing if credits pay, held if the allowance pays, None
    if the plan includes it.

    `earlier`: the request's previous holds, which determine the number of the asking.
    """
    if charge.funding is Funding.PLAN:
        return None
    paid = charge.funding is Funding.CREDITS
    asking = 1 + sum(hold.stage is stage and hold.round == round_number for hold in earlier)
    return Hold(
        key=hold_key(request_id, stage, round_number, asking),
        stage=stage,
        round=round_number,
        action=charge.action,
        funding=charge.funding,
        amount=charge.amount,
        state=HoldState.PLACING if paid else HoldState.HELD,
        month=None if paid else now.date().replace(day=1).isoformat(),
    )


def as_held(hold: Hold) -> Hold:
    """Return the hold as held by the statement that also takes its credits."""
    return replace(hold, state=HoldState.HELD)


def is_repeat(
    request: GenerationRequest, sample_id: str, resolution: str | None, file_format: str | None
) -> bool:
    """Return whether a selection repeats the earlier one; options that it omits do not count."""
    made = request.pending_action["fields"] if request.pending_action else {}
    size = made.get("final_resolution") or str(request.final_size)
    return (
        request.selected_sample_id == sample_id
        and (resolution is None or str(final_size(request.dimensions, resolution)) == size)
        and file_format in {None, made.get("file_format") or request.file_format}
    )


def is_waiting_for(request: GenerationRequest, hold: Hold) -> bool:
    """Return whether the request is still waiting for this hold."""
    if request.placing is None or request.placing.key != hold.key:
        return False
    if request.state is State.VALIDATING_CREDITS:
        return hold.stage is Stage.SAMPLES
    return request.state is State.AWAITING_SELECTION and request.pending_action is not None
