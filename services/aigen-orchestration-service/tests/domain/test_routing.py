"""Which model does which attempt: the named one, the default, and the fallback for the last of several."""

import pytest

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.routing import MODELS, model_for_attempt, named_model


@pytest.mark.parametrize(("name", "model"), [(None, "standard"), ("standard", "standard"), ("fast", "fast")])
def test_the_named_model_or_the_default(name: str | None, model: str) -> None:
    assert named_model(name).name == model


@pytest.mark.parametrize("name", ["gpt", "Standard", "fast ", "../fast"])
def test_an_unknown_model_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        named_model(name)
    assert caught.value.errors == [
        {"pointer": "/model", "code": "unknown_model", "message": "Use one of standard, fast, advanced."}
    ]


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
    ],
)
def test_the_last_of_several_attempts_goes_to_the_fallback(
    name: str | None, attempt: int, max_attempts: int, model: str
) -> None:
    assert model_for_attempt(name, attempt=attempt, max_attempts=max_attempts).name == model


def test_every_fallback_is_a_model_and_none_is_dearer() -> None:
    for model in MODELS.values():
        if model.fallback:
            assert MODELS[model.fallback].surcharge <= model.surcharge
            assert model.fallback != model.name


def test_only_the_advanced_model_costs_more() -> None:
    assert {model.name: model.surcharge for model in MODELS.values()} == {"standard": 0, "fast": 0, "advanced": 100}
