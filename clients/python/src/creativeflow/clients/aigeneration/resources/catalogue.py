"""Output formats, prices, models and problem types."""

from dataclasses import dataclass
from decimal import Decimal

from creativeflow.clients.aigeneration.resources.parsing import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat(Resource):
    """An output format; sides in pixels, `sample` is "WxH"."""

    name: str
    width: int
    height: int
    sample: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomFormat(Resource):
    """The bounds of the sides of the Custom format in pixels."""

    name: str
    side_min: int
    side_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatList(Resource):
    """All output formats."""

    formats: tuple[OutputFormat, ...]
    custom: CustomFormat
    file_formats: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPrices(Resource):
    """Prices of a plan in credits; `final_high_resolution` is None if the plan has none."""

    plan: str
    title: str
    samples: Decimal
    final: Decimal
    final_high_resolution: Decimal | None
    monthly_generations: int | None
    brand_kit: bool
    watermark: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList(Resource):
    """Prices by plan; a longer side above `high_resolution_above` pixels is high resolution."""

    high_resolution_above: int
    plans: tuple[PlanPrices, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Resource):
    """An AI model; quality, economy and speed are 1 to 5, the surcharge is in credits."""

    name: str
    title: str
    strategy: str
    provider: str
    quality: int
    economy: int
    speed: int
    surcharge: Decimal
    fallbacks: tuple[str, ...]
    stages: tuple[str, ...]
    plans: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList(Resource):
    """The models and strategies that a brief may name."""

    default: str
    strategies: tuple[str, ...]
    models: tuple[Model, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemType(Resource):
    """The description of a problem code."""

    code: str
    title: str
    status: int
    meaning: str
    what_to_do: str
    retryable: bool
