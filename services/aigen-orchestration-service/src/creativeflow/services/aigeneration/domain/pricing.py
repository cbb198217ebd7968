"""Prices, plans and charges (REQ-016).

Amounts are integers of 1/100 credit; text only at the edges, never floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.lifecycle import Stage

ACTIONS = ("sample_generation", "standard_generation", "hd_export", "advanced_ai_feature")
"""All action types (REQ-016); a billing adapter would not charge any other."""


class Funding(StrEnum):
    """What pays for an action."""

    CREDITS = "credits"
    ALLOWANCE = "allowance"
    """One of the Free plan's monthly generations."""
    PLAN = "plan"
    """Included in the plan; nothing is held."""


class SubscriptionStatus(StrEnum):
    """The status of a subscription (REQ-016); see `terms` for its effect."""

    ACTIVE = "active"
    TRIAL = "trial"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A subscription plan.

    `weight` is its share in the fair queue, `in_flight` the maximum number of jobs of one user with
    workers at the same time.
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
    """The price list in 1/100 credit; high resolution starts above `high_resolution_above` px on
    the longest side.
    """

    sample_set: int = 25
    final: int = 100
    high_resolution_final: int = 200
    high_resolution_above: int = 1920


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The cost of an action and its funding; `amount` is 0 unless credits pay."""

    action: str
    funding: Funding
    amount: int = 0


def terms(plan: Plan, status: SubscriptionStatus) -> Plan:
    """Return the plan that applies at this status; an ended subscription gives the Free plan."""
    ended = status in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED)
    return FREE if ended else plan


def price_samples(plan: Plan, prices: Prices, surcharge: int = 0) -> Charge:
    """Return the charge of a sample set; the surcharge of an advanced model is paid in credits on
    every plan.
    """
    base = 0 if plan.includes_standard else prices.sample_set
    if base + surcharge:
        return Charge(action="sample_generation", funding=Funding.CREDITS, amount=base + surcharge)
    funding = Funding.ALLOWANCE if plan.monthly_generations else Funding.PLAN
    return Charge(action="sample_generation", funding=funding)


def price_final(plan: Plan, prices: Prices, *, longest_side: int, surcharge: int = 0) -> Charge:
    """Return the charge of the final; high resolution costs credits on every plan that
    includes it.
    """
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
    """Return whether a final with this longest side (px) counts as high resolution."""
    return longest_side > prices.high_resolution_above


def hold_key(request_id: object, stage: Stage, round_number: int, asking: int) -> str:
    """Return the business key of a hold: `{request}:{stage}:{round}:{asking}`.

    Further attempts of a job share their hold. A refused asking is final: the next one has a new
    key, so that a late response to the first cannot be mistaken for a response to the second.
    """
    return f"{request_id}:{stage}:{round_number}:{asking}"


def credits_text(amount: int) -> str:
    """Format an amount for callers: 25 → "0.25"."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02d}"


def credits_amount(text: str) -> int:
    """Parse an amount of `credits_text`.

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
