"""What things cost, which plan includes what, and which charge an action comes to (REQ-016).

Amounts are integers of 1/100 credit everywhere inside; text only at the edge; never floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.lifecycle import Stage

ACTIONS = ("sample_generation", "standard_generation", "hd_export", "advanced_ai_feature")
"""Every action type there is: a billing adapter takes any other for free, so no other is ever sent
(REQ-016).
"""


class Funding(StrEnum):
    """What pays for an action."""

    CREDITS = "credits"
    ALLOWANCE = "allowance"
    """One of the Free plan's generations of the month."""
    PLAN = "plan"
    """Included: nothing to hold."""


class SubscriptionStatus(StrEnum):
    """What a subscription is worth now (REQ-016); `terms` says what follows from it."""

    ACTIVE = "active"
    TRIAL = "trial"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a subscription includes.

    `weight` is its share in the fair queue, `in_flight` how many jobs of one user of it may be with
    workers at once.
    """

    name: str
    title: str
    includes_standard: bool
    monthly_generations: bool
    high_resolution: bool
    brand_kit: bool
    watermark: bool
    weight: float
    in_flight: int


FREE = Plan(
    name="free",
    title="Free",
    includes_standard=True,
    monthly_generations=True,
    high_resolution=False,
    brand_kit=False,
    watermark=True,
    weight=1.0,
    in_flight=5,
)
PAYG = Plan(
    name="payg",
    title="Pay as you go",
    includes_standard=False,
    monthly_generations=False,
    high_resolution=True,
    brand_kit=False,
    watermark=False,
    weight=1.0,
    in_flight=10,
)
PRO = Plan(
    name="pro",
    title="Pro",
    includes_standard=True,
    monthly_generations=False,
    high_resolution=True,
    brand_kit=True,
    watermark=False,
    weight=2.0,
    in_flight=20,
)
TEAM = Plan(
    name="team",
    title="Team",
    includes_standard=True,
    monthly_generations=False,
    high_resolution=True,
    brand_kit=True,
    watermark=False,
    weight=3.0,
    in_flight=50,
)
ENTERPRISE = Plan(
    name="enterprise",
    title="Enterprise",
    includes_standard=True,
    monthly_generations=False,
    high_resolution=True,
    brand_kit=True,
    watermark=False,
    weight=4.0,
    in_flight=100,
)
_WHOLE_DIGITS_MAX = 12
PLANS: Mapping[str, Plan] = MappingProxyType(
    {plan.name: plan for plan in (FREE, PAYG, PRO, TEAM, ENTERPRISE)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The price list in 1/100 credit; high resolution begins above `high_resolution_above` px on
    the longest side.
    """

    sample_set: int = 25
    final: int = 100
    high_resolution_final: int = 200
    high_resolution_above: int = 1920


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one action costs and what pays for it; `amount` is 0 unless credits pay."""

    action: str
    funding: Funding
    amount: int = 0


def terms(plan: Plan, status: SubscriptionStatus) -> Plan:
    """What a subscription gives today: one that has ended gives what the Free plan gives."""
    ended = status in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED)
    return FREE if ended else plan


def price_samples(plan: Plan, prices: Prices, surcharge: int = 0) -> Charge:
    """The charge for one set of samples; an advanced model's surcharge is paid in credits on every
    plan.
    """
    base = 0 if plan.includes_standard else prices.sample_set
    if base + surcharge:
        return Charge(action="sample_generation", funding=Funding.CREDITS, amount=base + surcharge)
    funding = Funding.ALLOWANCE if plan.monthly_generations else Funding.PLAN
    return Charge(action="sample_generation", funding=funding)


def price_final(plan: Plan, prices: Prices, *, longest_side: int, surcharge: int = 0) -> Charge:
    """The charge for the final; high resolution costs credits on every plan that has it."""
    if is_high_resolution(prices, longest_side):
        return Charge(
            action="hd_export",
            funding=Funding.CREDITS,
            amount=prices.high_resolution_final + surcharge,
        )
    amount = (0 if plan.includes_standard else prices.final) + surcharge
    funding = Funding.CREDITS if amount else Funding.PLAN
    return Charge(action="standard_generation", funding=funding, amount=amount)


def is_high_resolution(prices: Prices, longest_side: int) -> bool:
    """Whether a final of that longest side (px) counts as high resolution."""
    return longest_side > prices.high_resolution_above


def hold_key(request_id: object, stage: Stage, round_number: int, asking: int) -> str:
    """Return the business key of a hold: `{request}:{stage}:{round}:{asking}`.

    Re-attempts of a job share their hold. An asking that was refused is over for good: the next one
    has a key of its own, so that a late answer to the first can never be taken for an answer to the
    second.
    """
    return f"{request_id}:{stage}:{round_number}:{asking}"


def credits_text(amount: int) -> str:
    """An amount as callers see it: 25 → "0.25"."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02d}"


def credits_amount(text: str) -> int:
    """The reverse of `credits_text`.

    Raises:
        ValueError: not a decimal number of credits with at most two places.
    """
    whole, point, part = text.strip().removeprefix("-").partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= _WHOLE_DIGITS_MAX) or (
        part and not (part.isascii() and part.isdigit())
    ):
        raise ValueError("an amount is a decimal number such as 0.25")
    if len(part) > 2 or (point and not part):  # noqa: PLR2004 - hundredths are the smallest unit
        raise ValueError("an amount has at most two decimal places")
    amount = int(whole) * 100 + int(part.ljust(2, "0") or 0)
    return -amount if text.strip().startswith("-") else amount
