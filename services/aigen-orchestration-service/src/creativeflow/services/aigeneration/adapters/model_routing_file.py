"""Routing rules in a TOML file, reloaded when it changes; an invalid file never replaces a valid
one.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from creativeflow.services.aigeneration.domain.formats import CUSTOM, FORMATS
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import (
    STANDARD,
    Model,
    Routing,
    Rule,
    Strategy,
)
from creativeflow.services.aigeneration.domain.pricing import PLANS, credits_amount

log = structlog.get_logger(__name__)

PlanName = Literal["free", "payg", "pro", "team", "enterprise"]
Score = Annotated[int, Field(ge=1, le=5)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Surcharge = Annotated[
    int,
    BeforeValidator(lambda value: credits_amount(value) if isinstance(value, str) else value),
    Field(ge=0, le=1_000_000),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Model(_Part):
    provider: Name
    title: Annotated[str, Field(min_length=1, max_length=100)]
    quality: Score = 3
    economy: Score = 3
    speed: Score = 3
    surcharge: Surcharge = 0
    fallbacks: list[Name] = []
    stages: list[Stage] = list(Stage)
    plans: list[PlanName] = [*PLANS]  # type: ignore[list-item]


class _Rule(_Part):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    use: dict[Name, Annotated[int, Field(ge=0, le=1_000_000)]]
    stages: list[Stage] = []
    plans: list[PlanName] = []
    formats: list[Literal[(*FORMATS, CUSTOM)]] = []  # type: ignore[valid-type]
    strategy: Strategy | None = None


class _File(_Part):
    default: Name
    models: dict[Name, _Model]
    rules: list[_Rule] = []


class RoutingFileError(Exception):
    """The file cannot be used; the message names the place and the reason."""


class RoutingSource:
    """The current routing; every process reads the file itself, again when its mtime changes."""

    def __init__(self, path: Path | None) -> None:
        """Read the file.

        Raises:
            RoutingFileError: it cannot be read or is not valid.
        """
        self._path = path
        self._seen = _changed(path)
        self._routing = read_routing(path) if path else STANDARD

    def __call__(self) -> Routing:
        """Return the current routing."""
        return self._routing

    def reload(self) -> None:
        """Reload a changed file; log an invalid one and keep the current rules."""
        if self._path is None or (changed := _changed(self._path)) == self._seen:
            return
        self._seen = changed
        try:
            self._routing = read_routing(self._path)
        except RoutingFileError as error:
            log.error("routing_refused", reason=str(error))  # noqa: TRY400 - the fault is in the file
        else:
            log.info(
                "routing_reloaded", rules=len(self._routing.rules), models=len(self._routing.models)
            )


def read_routing(path: Path) -> Routing:
    """Read the routing from a file.

    Raises:
        RoutingFileError: it cannot be read or is not valid.
    """
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return Routing(
            default=parsed.default,
            models={name: _model(name, model) for name, model in parsed.models.items()},
            rules=tuple(_rule(rule) for rule in parsed.rules),
        )
    except ValidationError as error:
        first: Any = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RoutingFileError(f"{path.name}: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise RoutingFileError(f"{path.name}: {error}") from error


def _model(name: str, parsed: _Model) -> Model:
    return Model(
        name=name,
        provider=parsed.provider,
        title=parsed.title,
        quality=parsed.quality,
        economy=parsed.economy,
        speed=parsed.speed,
        surcharge=parsed.surcharge,
        fallbacks=tuple(parsed.fallbacks),
        stages=frozenset(parsed.stages),
        plans=frozenset(parsed.plans),
    )


def _rule(parsed: _Rule) -> Rule:
    return Rule(
        name=parsed.name,
        use=parsed.use,
        stages=frozenset(parsed.stages),
        plans=frozenset(parsed.plans),
        formats=frozenset(parsed.formats),
        strategy=parsed.strategy,
    )


def _changed(path: Path | None) -> int | None:
    try:
        return path.stat().st_mtime_ns if path else None
    except OSError:
        return None
