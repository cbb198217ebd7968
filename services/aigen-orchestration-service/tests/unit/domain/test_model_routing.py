"""Which model does which stage and attempt, and why: by name, rule, strategy or default."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import (
    STANDARD,
    Asked,
    Model,
    Routing,
    Rule,
    Strategy,
)
from creativeflow.services.aigeneration.domain.pricing import PLANS

SPLIT = Rule(name="split", use={"standard": 90, "fast": 10})


def asked(**changes: Any) -> Asked:
    fields: dict[str, Any] = {
        "stage": Stage.SAMPLES,
        "plan": PLANS["pro"],
        "output_format": "XPost",
        "user_id": "user-7",
    } | changes
    return Asked(**fields)


def with_rules(*rules: Rule, **models: Model) -> Routing:
    return Routing(models={**STANDARD.models, **models}, default="standard", rules=rules)


def chosen(routing: Routing, **changes: Any) -> tuple[str, str]:
    choice = routing.choose(asked(**changes))
    return choice.model.name, choice.reason


# Names and strategies


def test_choose_without_rules_is_the_default_or_the_requested() -> None:
    assert chosen(STANDARD) == ("standard", "default")
    assert chosen(STANDARD, named="fast") == ("fast", "named")
    assert chosen(STANDARD, named="advanced", plan=PLANS["free"]) == ("advanced", "named")


@pytest.mark.parametrize("name", ["gpt", "Standard", "fast ", "../fast", ""])
def test_choose_unknown_model_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        STANDARD.choose(asked(named=name))
    assert caught.value.errors == [
        {
            "pointer": "/model",
            "code": "unknown_model",
            "message": "Use one of standard, fast, advanced, quality, cost, fastest.",
        }
    ]


@pytest.mark.parametrize(
    ("strategy", "model"), [("quality", "standard"), ("cost", "fast"), ("fastest", "fast")]
)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_choose_strategy_is_the_best_without_surcharge(
    strategy: str, model: str, plan: Any
) -> None:
    assert chosen(STANDARD, named=strategy, plan=plan) == (model, strategy)


def test_choose_rule_may_use_an_advanced_model_where_credits_pay() -> None:
    routing = with_rules(Rule(name="best", strategy=Strategy.QUALITY, use={"advanced": 1}))
    assert chosen(routing, named="quality") == ("advanced", "rule best")
    assert chosen(routing, named="quality", plan=PLANS["free"]) == ("standard", "quality")
    assert chosen(routing) == ("standard", "default")


# Rules


@pytest.mark.parametrize(
    ("condition", "fits", "fits_not"),
    [
        ({"stages": frozenset({Stage.FINAL})}, {"stage": Stage.FINAL}, {"stage": Stage.SAMPLES}),
        ({"plans": frozenset({"pro", "team"})}, {"plan": PLANS["team"]}, {"plan": PLANS["free"]}),
        (
            {"formats": frozenset({"XPost"})},
            {"output_format": "XPost"},
            {"output_format": "TikTok_9x16"},
        ),
        ({"strategy": Strategy.COST}, {"named": "cost"}, {}),
    ],
)
def test_choose_rule_matches_by_its_conditions(condition: Any, fits: Any, fits_not: Any) -> None:
    routing = with_rules(Rule(name="r", use={"fast": 1}, **condition))
    assert chosen(routing, **fits) == ("fast", "rule r")
    assert chosen(routing, **fits_not) == ("standard", "default")
    assert routing.choose(asked(**fits_not)).passed[0].startswith("r: for ")


def test_choose_requested_model_precedes_the_first_matching_rule() -> None:
    routing = with_rules(
        Rule(name="first", use={"fast": 1}), Rule(name="second", use={"standard": 1})
    )
    assert chosen(routing) == ("fast", "rule first")
    assert chosen(routing, named="standard") == ("standard", "named")


def test_choose_rule_with_unusable_models_is_skipped() -> None:
    finals_only = Model(name="painter", provider="p", title="P", stages=frozenset({Stage.FINAL}))
    routing = with_rules(Rule(name="r", use={"painter": 1}), painter=finals_only)
    assert chosen(routing, stage=Stage.FINAL) == ("painter", "rule r")
    assert chosen(routing) == ("standard", "default")
    assert chosen(routing, named="painter") == ("standard", "named")


# Splits


@given(st.text(min_size=1, max_size=40))
def test_choose_split_is_stable_per_user(user_id: str) -> None:
    routing = with_rules(SPLIT)
    assert (
        len({chosen(routing, user_id=user_id, output_format=f) for f in ("XPost", "TikTok_9x16")})
        == 1
    )


def test_users_are_split_by_weight_and_differently_by_each_rule() -> None:
    routing, other = with_rules(SPLIT), with_rules(replace(SPLIT, name="other"))
    users = [f"user-{number}" for number in range(10_000)]
    fell = Counter(chosen(routing, user_id=user)[0] for user in users)
    assert 900 < fell["fast"] < 1100
    both = sum(
        chosen(routing, user_id=user)[0] == "fast" and chosen(other, user_id=user)[0] == "fast"
        for user in users
    )
    assert 60 < both < 140


def test_choose_weight_zero_gets_no_user() -> None:
    routing = with_rules(Rule(name="off", use={"standard": 1, "fast": 0}))
    assert {chosen(routing, user_id=f"u{n}")[0] for n in range(500)} == {"standard"}


# Attempts


@pytest.mark.parametrize(
    ("name", "attempt", "max_attempts", "model"),
    [
        (None, 1, 3, "standard"),
        (None, 2, 3, "standard"),
        (None, 3, 3, "fast"),
        (None, 4, 3, "fast"),
        (None, 2, 2, "fast"),
        (None, 1, 1, "standard"),
        ("fast", 3, 3, "fast"),
        ("advanced", 2, 3, "advanced"),
        ("advanced", 3, 3, "advanced"),
        ("gone", 1, 3, "standard"),
    ],
)
def test_attempt_last_uses_the_fallback(
    name: str | None, attempt: int, max_attempts: int, model: str
) -> None:
    assert STANDARD.attempt(name, attempt=attempt, max_attempts=max_attempts).name == model


@pytest.mark.parametrize(
    ("max_attempts", "models"),
    [
        (1, ["first"]),
        (2, ["first", "second"]),
        (3, ["first", "second", "third"]),
        (5, ["first", "first", "first", "second", "third"]),
    ],
)
def test_attempt_chain_of_fallbacks_is_followed_to_its_end(
    max_attempts: int, models: list[str]
) -> None:
    chain = {
        "first": Model(name="first", provider="p", title="1", fallbacks=("second", "third")),
        "second": Model(name="second", provider="p", title="2"),
        "third": Model(name="third", provider="p", title="3"),
    }
    routing = Routing(models=chain, default="first")
    assert [
        routing.attempt("first", attempt=attempt, max_attempts=max_attempts).name
        for attempt in range(1, max_attempts + 1)
    ] == models


# Invalid rules


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            Model(name="m", provider="p", title="M", fallbacks=("nowhere",)),
            "fallback nowhere of m is not there",
        ),
        (Model(name="m", provider="p", title="M", fallbacks=("m",)), "own fallback"),
        (
            Model(name="m", provider="p", title="M", surcharge=1, fallbacks=("fast",)),
            "can have no fallback",
        ),
        (
            Model(name="m", provider="p", title="M", fallbacks=("advanced",)),
            "costs a surcharge that the user has not accepted",
        ),
        (Model(name="quality", provider="p", title="M"), "that is a strategy"),
    ],
)
def test_models_that_would_charge_for_what_nobody_gets_are_refused(model: Model, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        with_rules(**{model.name: model})


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Rule(name="r", use={"nowhere": 1}), "model nowhere of rule r is not there"),
        (Rule(name="r", use={"fast": 0}), "needs a model with a weight"),
        (Rule(name="r", use={}), "needs a model with a weight"),
        (Rule(name="r", use={"fast": 2, "standard": -1}), "none below"),
        (Rule(name="r", use={"advanced": 1}), "sends all users to advanced"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rule: Rule, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        with_rules(rule)


def test_routing_default_must_serve_every_plan() -> None:
    for model in (
        Model(name="m", provider="p", title="M", surcharge=5),
        Model(name="m", provider="p", title="M", plans=frozenset({"pro"})),
        Model(name="m", provider="p", title="M", stages=frozenset({Stage.FINAL})),
    ):
        with pytest.raises(ValueError, match="default model must serve"):
            Routing(models={"m": model}, default="m")
    with pytest.raises(ValueError, match="is not there"):
        Routing(models=STANDARD.models, default="gone")


def test_built_in_models_only_the_advanced_has_a_surcharge() -> None:
    assert {name: model.surcharge for name, model in STANDARD.models.items()} == {
        "standard": 0,
        "fast": 0,
        "advanced": 100,
    }
