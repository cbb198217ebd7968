"""Which AI model does a job: the one that was named, else the default; the last attempt goes to its fallback.

A model with a surcharge names no fallback: nobody pays for an advanced model and gets another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model which a brief may name; `surcharge` is in 1/100 credit per sample set and per final."""

    name: str
    provider: str
    title: str
    strategy: str
    surcharge: int = 0
    fallback: str | None = None


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        model.name: model
        for model in (
            Model(name="standard", provider="default", title="Standard", strategy="quality", fallback="fast"),
            Model(name="fast", provider="default", title="Fast", strategy="fastest"),
            Model(
                name="advanced", provider="default", title="Advanced AI", strategy="quality", surcharge=100
            ),
        )
    }
)  # fmt: skip
DEFAULT_MODEL = "standard"


def named_model(name: str | None) -> Model:
    """The model a brief names, or the default.

    Raises:
        InvalidRequestError: no such model.
    """
    if (model := MODELS.get(name or DEFAULT_MODEL)) is None:
        raise InvalidRequestError.at("/model", "unknown_model", f"Use one of {', '.join(MODELS)}.")
    return model


def model_for_attempt(name: str | None, *, attempt: int, max_attempts: int) -> Model:
    """The model of one attempt: the last of several goes to the fallback where the model names one."""
    model = named_model(name)
    if attempt > 1 and attempt >= max_attempts and model.fallback:
        return MODELS[model.fallback]
    return model
