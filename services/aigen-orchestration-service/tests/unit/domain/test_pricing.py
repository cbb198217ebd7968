"""The charge of each action on each plan, written by hand from REQ-016, and amounts as text."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import STANDARD
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    Charge,
    Prices,
    credits_amount,
    credits_text,
    hold_key,
    is_high_resolution,
    price_final,
    price_samples,
)
from tests.support.builders import REQUEST_ID

ADVANCED = STANDARD.models["advanced"].surcharge
LIST = Prices()

SAMPLES = [
    ("free", "0.00", "allowance"),
    ("payg", "0.25", "credits"),
    ("pro", "0.00", "plan"),
    ("team", "0.00", "plan"),
    ("enterprise", "0.00", "plan"),
]
SAMPLES_OF_THE_ADVANCED_MODEL = [
    ("free", "1.00", "credits"),
    ("payg", "1.25", "credits"),
    ("pro", "1.00", "credits"),
    ("team", "1.00", "credits"),
    ("enterprise", "1.00", "credits"),
]
STANDARD_FINAL = [
    ("free", "0.00", "plan"),
    ("payg", "1.00", "credits"),
    ("pro", "0.00", "plan"),
    ("team", "0.00", "plan"),
    ("enterprise", "0.00", "plan"),
]
STANDARD_FINAL_OF_THE_ADVANCED_MODEL = [
    ("free", "1.00", "credits"),
    ("payg", "2.00", "credits"),
    ("pro", "1.00", "credits"),
    ("team", "1.00", "credits"),
    ("enterprise", "1.00", "credits"),
]
HIGH_RESOLUTION_FINAL = [
    ("payg", "2.00", "credits"),
    ("pro", "2.00", "credits"),
    ("team", "2.00", "credits"),
    ("enterprise", "2.00", "credits"),
]
HIGH_RESOLUTION_FINAL_OF_THE_ADVANCED_MODEL = [
    ("payg", "3.00", "credits"),
    ("pro", "3.00", "credits"),
    ("team", "3.00", "credits"),
    ("enterprise", "3.00", "credits"),
]

INCLUDES = {
    "free": {
        "high_resolution": False,
        "brand_kit": False,
        "watermark": True,
        "monthly_generations": True,
    },
    "payg": {
        "high_resolution": True,
        "brand_kit": False,
        "watermark": False,
        "monthly_generations": False,
    },
    "pro": {
        "high_resolution": True,
        "brand_kit": True,
        "watermark": False,
        "monthly_generations": False,
    },
    "team": {
        "high_resolution": True,
        "brand_kit": True,
        "watermark": False,
        "monthly_generations": False,
    },
    "enterprise": {
        "high_resolution": True,
        "brand_kit": True,
        "watermark": False,
        "monthly_generations": False,
    },
}


def told(charge: Charge) -> tuple[str, str]:
    return credits_text(charge.amount), charge.funding


@pytest.mark.parametrize(("plan", "costs", "paid_by"), SAMPLES)
def test_price_samples_by_plan(plan: str, costs: str, paid_by: str) -> None:
    charge = price_samples(PLANS[plan], LIST)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "sample_generation"


@pytest.mark.parametrize(("plan", "costs", "paid_by"), SAMPLES_OF_THE_ADVANCED_MODEL)
def test_price_samples_of_the_advanced_model_by_plan(plan: str, costs: str, paid_by: str) -> None:
    charge = price_samples(PLANS[plan], LIST, ADVANCED)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "sample_generation"


@pytest.mark.parametrize("longest_side", [64, 1080, 1920])
@pytest.mark.parametrize(("plan", "costs", "paid_by"), STANDARD_FINAL)
def test_price_final_standard_by_plan(
    plan: str, costs: str, paid_by: str, longest_side: int
) -> None:
    charge = price_final(PLANS[plan], LIST, longest_side=longest_side)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "standard_generation"


@pytest.mark.parametrize(("plan", "costs", "paid_by"), STANDARD_FINAL_OF_THE_ADVANCED_MODEL)
def test_price_final_standard_of_the_advanced_model_by_plan(
    plan: str, costs: str, paid_by: str
) -> None:
    charge = price_final(PLANS[plan], LIST, longest_side=1920, surcharge=ADVANCED)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "standard_generation"


@pytest.mark.parametrize("longest_side", [1921, 2048, 4096])
@pytest.mark.parametrize(("plan", "costs", "paid_by"), HIGH_RESOLUTION_FINAL)
def test_price_final_high_resolution_by_plan(
    plan: str, costs: str, paid_by: str, longest_side: int
) -> None:
    charge = price_final(PLANS[plan], LIST, longest_side=longest_side)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "hd_export"


@pytest.mark.parametrize(("plan", "costs", "paid_by"), HIGH_RESOLUTION_FINAL_OF_THE_ADVANCED_MODEL)
def test_price_final_high_resolution_of_the_advanced_model_by_plan(
    plan: str, costs: str, paid_by: str
) -> None:
    charge = price_final(PLANS[plan], LIST, longest_side=4096, surcharge=ADVANCED)
    assert told(charge) == (costs, paid_by)
    assert charge.action == "hd_export"


@pytest.mark.parametrize("plan", list(PLANS))
def test_prices_amount_is_zero_unless_credits_pay(plan: str) -> None:
    for surcharge in (0, 1, 100):
        charges = [price_samples(PLANS[plan], LIST, surcharge)]
        charges += [
            price_final(PLANS[plan], LIST, longest_side=side, surcharge=surcharge)
            for side in (512, 4096)
        ]
        for charge in charges:
            assert (charge.amount > 0) is (charge.funding == "credits")


def test_prices_follow_the_settings() -> None:
    dear = Prices(sample_set=30, final=150, high_resolution_final=275, high_resolution_above=1024)
    assert price_samples(PLANS["payg"], dear).amount == 30
    assert price_final(PLANS["payg"], dear, longest_side=1024).amount == 150
    assert price_final(PLANS["pro"], dear, longest_side=1025).amount == 275


@pytest.mark.parametrize(
    ("longest_side", "high"), [(64, False), (1920, False), (1921, True), (4096, True)]
)
def test_high_resolution_begins_above_1920_px(longest_side: int, high: bool) -> None:
    assert is_high_resolution(LIST, longest_side) is high


def test_plans_match_the_requirements() -> None:
    assert {
        plan.name: {feature: getattr(plan, feature) for feature in INCLUDES["free"]}
        for plan in PLANS.values()
    } == INCLUDES


def test_dearer_plans_weigh_at_least_as_much_in_the_fair_queue() -> None:
    weights = [PLANS[name].weight for name in ("free", "payg", "pro", "team", "enterprise")]
    assert weights == sorted(weights)
    assert weights[0] > 0


def test_hold_key_contains_stage_round_and_asking() -> None:
    assert (
        hold_key(REQUEST_ID, Stage.SAMPLES, 2, 1)
        == "0195940d-0000-7000-8000-000000000001:samples:2:1"
    )
    assert (
        hold_key(REQUEST_ID, Stage.FINAL, 1, 3) == "0195940d-0000-7000-8000-000000000001:final:1:3"
    )


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.00"),
        (1, "0.01"),
        (25, "0.25"),
        (100, "1.00"),
        (1234567, "12345.67"),
        (-1, "-0.01"),
        (-25, "-0.25"),
        (-100, "-1.00"),
        (-101, "-1.01"),
    ],
)
def test_credits_text_has_two_decimals(amount: int, text: str) -> None:
    assert credits_text(amount) == text
    assert credits_amount(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1", 100), ("1.5", 150), ("007", 700), (" 2.50 ", 250), ("-3", -300), ("-0", 0), ("0.0", 0)],
)
def test_credits_amount_accepts_shorter_text(text: str, amount: int) -> None:
    assert credits_amount(text) == amount


@given(st.integers(min_value=-(10**14) + 1, max_value=10**14 - 1))
@settings(max_examples=150, deadline=None)
def test_credits_text_round_trip_is_equal(amount: int) -> None:
    text = credits_text(amount)
    assert credits_amount(text) == amount
    assert Decimal(text) * 100 == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-",
        "--1",
        "+1",
        "- 1",
        "-+1",
        ".",
        ".5",
        "-.5",
        "1.234",
        "0.001",
        "1.000",
        "1e2",
        "1E2",
        "1.5e1",
        "0x10",
        "1_000",
        "1,5",
        "1,000.00",
        "1.2.3",
        "1.-2",
        "1. 5",
        "1 000",
        "NaN",
        "nan",
        "inf",
        "-Infinity",
        "abc",
        "€1",
        "1€",
        "١٢",
        "1.٢",
        "\uff11",
        "²",
        "½",
        "1000000000000",
        "9" * 5000,
        "1." + "0" * 5000,
        "1\x00",
        "0.2\n5",
    ],
)
def test_credits_amount_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an amount"):
        credits_amount(text)


@given(st.text(max_size=20) | st.text("0123456789.-+_e ٢", max_size=8))
@settings(max_examples=150, deadline=None)
def test_credits_amount_any_text_is_exact_or_refused(text: str) -> None:
    try:
        amount = credits_amount(text)
    except ValueError as error:
        assert str(error).startswith("an amount ")  # noqa: PT017 - most texts are refused, the others must be exact
    else:
        assert Decimal(text.strip()) * 100 == amount
