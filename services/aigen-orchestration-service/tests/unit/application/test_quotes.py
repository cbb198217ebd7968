"""Quotes return their terms only to their user, within their validity."""

import base64
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creativeflow.services.aigeneration.application.quotes import ID_MAX, Quotes
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import STANDARD
from creativeflow.services.aigeneration.domain.ordering import check_quote, quote_terms
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    Prices,
    price_final,
    price_samples,
)
from tests.support.builders import NOW

QUOTES = Quotes([b"first-secret", b"older-secret"])
TERMS = {"samples": "credits:25", "final": "credits:100", "high": None}
LATER = NOW + timedelta(minutes=15)


def test_quote_opened_returns_the_sealed_terms() -> None:
    sealed = QUOTES.seal("user", TERMS, LATER)
    assert QUOTES.open(sealed, "user", NOW) == TERMS
    assert len(sealed) < ID_MAX
    assert QUOTES.open(None, "user", NOW) is None


def test_quote_with_the_longest_user_id_fits() -> None:
    assert len(QUOTES.seal("u" * 200, TERMS, LATER)) <= ID_MAX + 50


def test_quote_expires_to_the_second() -> None:
    sealed = QUOTES.seal("user", TERMS, LATER)
    assert QUOTES.open(sealed, "user", LATER - timedelta(seconds=1)) == TERMS
    with pytest.raises(errors.QuoteExpiredError):
        QUOTES.open(sealed, "user", LATER)


def test_quote_of_another_user_is_refused_without_details() -> None:
    with pytest.raises(errors.InvalidRequestError):
        QUOTES.open(QUOTES.seal("user", TERMS, LATER), "other", LATER + timedelta(days=1))


def test_quote_of_an_older_secret_opens_and_of_an_unknown_one_does_not() -> None:
    assert QUOTES.open(Quotes([b"older-secret"]).seal("user", TERMS, LATER), "user", NOW) == TERMS
    with pytest.raises(errors.InvalidRequestError):
        QUOTES.open(Quotes([b"foreign-secret"]).seal("user", TERMS, LATER), "user", NOW)


def test_quote_with_any_changed_byte_is_refused() -> None:
    sealed = QUOTES.seal("user", TERMS, LATER)
    _, body, seal = sealed.split(".")
    cheaper = base64.urlsafe_b64encode(
        base64.urlsafe_b64decode(body + "==").replace(b"credits:25", b"credits:00")
    ).rstrip(b"=")
    for forged in (
        f"q1.{cheaper.decode()}.{seal}",
        f"q2.{body}.{seal}",
        f"q1.{body}.",
        f"q1..{seal}",
        sealed + "A",
    ):
        with pytest.raises(errors.InvalidRequestError):
            QUOTES.open(forged, "user", NOW)


@given(st.text(max_size=ID_MAX))
def test_quote_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError):
        QUOTES.open(text, "user", NOW)


def test_its_secrets_do_not_show() -> None:
    assert repr(QUOTES) == "Quotes(2)"


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("model", "surcharge"), [("standard", 0), ("advanced", 100)])
def test_terms_are_the_prices_that_are_charged(plan, model, surcharge) -> None:
    prices = Prices()
    terms = quote_terms(plan, prices, dict.fromkeys(Stage, STANDARD.models[model]))
    check_quote(terms, price_samples(plan, prices, surcharge))
    check_quote(terms, price_final(plan, prices, longest_side=1920, surcharge=surcharge))
    high = price_final(plan, prices, longest_side=1921, surcharge=surcharge)
    if plan.high_resolution:
        check_quote(terms, high)
    else:
        with pytest.raises(errors.QuoteExpiredError):
            check_quote(terms, high)


def test_quote_same_amount_with_other_funding_is_refused() -> None:
    free, pro = PLANS["free"], PLANS["pro"]
    models = dict.fromkeys(Stage, STANDARD.models["standard"])
    with pytest.raises(errors.QuoteExpiredError):
        check_quote(quote_terms(pro, Prices(), models), price_samples(free, Prices()))
    check_quote(None, price_samples(free, Prices()))
