"""What a user orders: which plan allows it, what it costs, which job it leads to, whether it
repeats another.
"""

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
    """Whether the plan allows what is asked (REQ-006, REQ-016).

    Raises:
        PlanRequiredError: names the feature and the plan that has it.
    """
    if brief.get("brand_kit_id") and not plan.brand_kit:
        raise PlanRequiredError(feature="A brand kit", plan="Pro")
    if is_high_resolution(prices, dimensions_of(brief).longest) and not plan.high_resolution:
        raise PlanRequiredError(feature="A format this large", plan="Pro")
    check_model(plan, model)


def check_model(plan: Plan, model: Model) -> None:
    """Whether the plan has the model; credits never pay on the Free plan, so one with a surcharge
    is none of its.

    Raises:
        PlanRequiredError: it has not.
    """
    having = [other.title for other in PLANS.values() if model.serves(min(model.stages), other)]
    if plan.title not in having:
        feature = "An advanced model" if model.surcharge else "This model"
        raise PlanRequiredError(feature=feature, plan="Pro" if PRO.title in having else having[0])


def to_route(choice: ModelChoice) -> Route:
    """A choice as the request keeps it."""
    return Route(
        chosen=choice.model.name,
        reason=choice.reason,
        provider=choice.model.provider,
        strategy=choice.model.strategy.value,
    )


def route_for_attempt(route: Route | None, model: Model) -> Route:
    """The route of an attempt; the same one where its model is the one that was chosen."""
    if route is None:
        return to_route(ModelChoice(model=model, reason="named before"))
    if route["provider"] == model.provider and route["strategy"] == model.strategy.value:
        return route
    return {**route, "provider": model.provider, "strategy": model.strategy.value}


def check_selectable(request: GenerationRequest, event: Event) -> None:
    """Whether the user may choose now.

    Raises:
        ActionInProgressError: an earlier choice waits for the credit service.
        IllegalTransitionError: there is nothing to choose from.
    """
    if request.placing is not None and not request.terminal:
        raise ActionInProgressError
    if request.state is not State.AWAITING_SELECTION:
        raise IllegalTransitionError(state=request.state, event=event)


def build_quote(
    plan: Plan, brief: Brief, prices: Prices, models: Mapping[Stage, Model], *, balance: int | None
) -> dict[str, Any]:
    """Every price of a brief: the total is one set of samples and the final in the format's own
    size.
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
    """What a quote binds: the price of a set of samples, of a standard and of a high-resolution
    final.

    None where the plan does not include it at all.
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
    """Whether an action costs what its quote says, and is paid by the same; without a quote it
    costs what it costs.

    Raises:
        QuoteExpiredError: another price: nothing is charged, the caller asks for a new quote.
    """
    item = {"sample_generation": "samples", "hd_export": "high"}.get(charge.action, "final")
    if quoted is not None and quoted.get(item) != _priced(charge):
        raise QuoteExpiredError


def _priced(charge: Charge) -> str:
    return f"{charge.funding}:{charge.amount}"


def charge_data(charge: Charge) -> dict[str, str]:
    """A charge as the timeline and a quote show it."""
    return {
        "action": charge.action,
        "paid_by": charge.funding.value,
        "credits": credits_text(charge.amount),
    }


def hold_for(
    charge: Charge,
    request_id: UUID,
    stage: Stage,
    round_number: int,
    now: datetime,
    *,
    earlier: Sequence[Hold] = (),
) -> Hold | None:
    """The hold of a charge as it begins: still to be placed where credits pay, held at once where
    the month's allowance does, None where the plan includes it. `earlier`: the request's holds so
    far, which give the asking its number.
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
    """The hold as it stands where the change that begins it takes its credits."""
    return replace(hold, state=HoldState.HELD)


def is_repeat(
    request: GenerationRequest, sample_id: str, resolution: str | None, file_format: str | None
) -> bool:
    """Whether a selection is the one that was made before; what it leaves out it does not
    contradict.
    """
    made = request.pending_action["fields"] if request.pending_action else {}
    size = made.get("final_resolution") or str(request.final_size)
    return (
        request.selected_sample_id == sample_id
        and (resolution is None or str(final_size(request.dimensions, resolution)) == size)
        and file_format in {None, made.get("file_format") or request.file_format}
    )


def is_waiting_for(request: GenerationRequest, hold: Hold) -> bool:
    """Whether the request still stands where this hold was asked for."""
    if request.placing is None or request.placing.key != hold.key:
        return False
    if request.state is State.VALIDATING_CREDITS:
        return hold.stage is Stage.SAMPLES
    return request.state is State.AWAITING_SELECTION and request.pending_action is not None
