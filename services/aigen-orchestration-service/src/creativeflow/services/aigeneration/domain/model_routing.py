"""Model routing: the requested model, else the first matching rule, else the default.

Rules split users by weight; the same user always gets the same side. A model with a surcharge has
no fallback, so that a user never pays for an advanced model and gets another.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.pricing import PLANS, Plan

_SPLIT_BYTES = 8


class Strategy(StrEnum):
    """A preference that can be requested instead of a model."""

    QUALITY = "quality"
    COST = "cost"
    FASTEST = "fastest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model with its qualities from 1 to 5; `surcharge` is in 1/100 credit per sample set and
    per final.
    """

    name: str
    provider: str
    title: str
    quality: int = 3
    economy: int = 3
    speed: int = 3
    surcharge: int = 0
    fallbacks: tuple[str, ...] = ()
    stages: frozenset[Stage] = frozenset(Stage)
    plans: frozenset[str] = frozenset(PLANS)

    @property
    def strategy(self) -> Strategy:
        """The strategy that the model serves best."""
        return max(Strategy, key=self.score)

    def score(self, strategy: Strategy) -> int:
        """Return how well the model serves a strategy."""
        return {
            Strategy.QUALITY: self.quality,
            Strategy.COST: self.economy,
            Strategy.FASTEST: self.speed,
        }[strategy]

    def serves(self, stage: Stage, plan: Plan) -> bool:
        """Return whether the model can be used; the Free plan has none with a surcharge, because it
        never uses credits.
        """
        return (
            stage in self.stages
            and plan.name in self.plans
            and not (self.surcharge and plan.monthly_generations)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule: matching requests go to its models by weight; an empty condition matches all."""

    name: str
    use: Mapping[str, int]
    stages: frozenset[Stage] = frozenset()
    plans: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    strategy: Strategy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The inputs of a choice; `named` is the requested model or strategy, or None."""

    stage: Stage
    plan: Plan
    output_format: str
    user_id: str
    named: str | None = None

    @property
    def strategy(self) -> Strategy | None:
        """The requested strategy, if any."""
        return Strategy(self.named) if self.named in set(Strategy) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model of a stage and the reason, as shown in the timeline; `passed` are the rules that
    did not match.
    """

    model: Model
    reason: str
    passed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """All models and rules; replaced as a whole when the rules are reloaded."""

    models: Mapping[str, Model]
    default: str
    rules: tuple[Rule, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check references, and that no user can be charged for a model they do not get.

        Raises:
            ValueError: a check failed; the message is for the author of the rules.
        """
        wrong = [*_faults_of_models(self), *_faults_of_rules(self)]
        if wrong:
            raise ValueError("; ".join(wrong))

    def choose(self, asked: Asked) -> ModelChoice:
        """Return the model of a stage; equal inputs give equal choices.

        Raises:
            InvalidRequestError: the requested model is unknown, or not available for this stage and
            plan.
        """
        if asked.named is not None and asked.strategy is None:
            return ModelChoice(model=self._named(asked.named, asked), reason="named")
        passed: list[str] = []
        for rule in self.rules:
            if (why := _unfit(rule, asked)) is None and (use := self._usable(rule, asked)):
                model = self.models[_pick(rule.name, asked.user_id, use)]
                return ModelChoice(model=model, reason=f"rule {rule.name}", passed=tuple(passed))
            passed.append(f"{rule.name}: {why or 'none of its models can be used here'}")
        if asked.strategy is not None:
            return ModelChoice(
                model=self._best(asked.strategy, asked), reason=asked.strategy, passed=tuple(passed)
            )
        return ModelChoice(model=self.models[self.default], reason="default", passed=tuple(passed))

    def attempt(self, chosen: str | None, *, attempt: int, max_attempts: int) -> Model:
        """Return the model of an attempt: the last attempts use the chain of fallbacks, the very
        last one its end.
        """
        model = self.models.get(chosen or self.default, self.models[self.default])
        chain = (model.name, *model.fallbacks)
        first_fallback = max(2, max_attempts - len(model.fallbacks) + 1)
        return self.models[chain[min(max(0, attempt - first_fallback + 1), len(chain) - 1)]]

    def offered(self, stage: Stage, plan: Plan) -> list[Model]:
        """Return the models that can be requested."""
        return [model for model in self.models.values() if model.serves(stage, plan)]

    def check_named(self, name: str | None) -> None:
        """Check that a model or strategy of this name exists.

        Raises:
            InvalidRequestError: it is unknown.
        """
        if name is not None and name not in self.models and name not in set(Strategy):
            raise _unknown(self.models)

    def _named(self, name: str, asked: Asked) -> Model:
        self.check_named(name)
        model = self.models[name]
        if (
            asked.stage not in model.stages
        ):  # a model for samples only was requested: the rules choose the final's
            return self.choose(
                Asked(
                    stage=asked.stage,
                    plan=asked.plan,
                    output_format=asked.output_format,
                    user_id=asked.user_id,
                )
            ).model
        return model

    def _usable(self, rule: Rule, asked: Asked) -> dict[str, int]:
        return {
            name: w
            for name, w in rule.use.items()
            if w and self.models[name].serves(asked.stage, asked.plan)
        }

    def _best(self, strategy: Strategy, asked: Asked) -> Model:
        """Return the best model for a strategy among those without a surcharge; one with a
        surcharge must be requested by name.
        """
        free = [model for model in self.offered(asked.stage, asked.plan) if not model.surcharge]
        return max(free, key=lambda model: model.score(strategy), default=self.models[self.default])


def _unfit(rule: Rule, asked: Asked) -> str | None:
    """Return why a rule does not match; None if it matches."""
    if rule.stages and asked.stage not in rule.stages:
        return "for another stage"
    if rule.plans and asked.plan.name not in rule.plans:
        return "for other plans"
    if rule.formats and asked.output_format not in rule.formats:
        return "for other formats"
    if rule.strategy is not asked.strategy and (rule.strategy or asked.strategy):
        return "for another strategy"
    return None


def _pick(rule_name: str, user_id: str, use: Mapping[str, int]) -> str:
    """Return the side of a rule on which a user is, by a stable hash of rule and user."""
    digest = hashlib.sha256(f"{rule_name}\n{user_id}".encode()).digest()[:_SPLIT_BYTES]
    place = int.from_bytes(digest) % sum(use.values())
    for name, weight in use.items():
        if place < weight:
            return name
        place -= weight
    raise AssertionError("a place is always within the sum of the weights")


def _faults_of_models(routing: Routing) -> list[str]:
    wrong = (
        []
        if routing.default in routing.models
        else [f"the default model {routing.default} is not there"]
    )
    for model in routing.models.values():
        missing = [name for name in model.fallbacks if name not in routing.models]
        wrong += [f"the fallback {name} of {model.name} is not there" for name in missing]
        if model.name in model.fallbacks:
            wrong.append(f"{model.name} cannot be its own fallback")
        if model.surcharge and model.fallbacks:
            wrong.append(f"{model.name} has a surcharge, so it can have no fallback")
        dearer = [n for n in model.fallbacks if n not in missing and routing.models[n].surcharge]
        wrong += [
            f"the fallback {name} of {model.name} costs a surcharge that the user has not accepted"
            for name in dearer
        ]
        if model.name in set(Strategy):
            wrong.append(f"a model cannot be called {model.name}: that is a strategy")
    default = routing.models.get(routing.default)
    if default and (
        default.surcharge or default.stages != frozenset(Stage) or default.plans != frozenset(PLANS)
    ):
        wrong.append("the default model must serve every stage and plan without a surcharge")
    return wrong


def _faults_of_rules(routing: Routing) -> list[str]:
    wrong = []
    for rule in routing.rules:
        wrong += [
            f"the model {name} of rule {rule.name} is not there"
            for name in rule.use
            if name not in routing.models
        ]
        if not any(rule.use.values()) or any(weight < 0 for weight in rule.use.values()):
            wrong.append(f"rule {rule.name} needs a model with a weight above 0 and none below")
        dearer = [
            name for name in rule.use if name in routing.models and routing.models[name].surcharge
        ]
        if rule.strategy is None:
            wrong += [
                f"rule {rule.name} sends all users to {name}, which costs a surcharge"
                for name in dearer
            ]
    return wrong


def _unknown(models: Mapping[str, Model]) -> InvalidRequestError:
    known = ", ".join([*models, *Strategy])
    return InvalidRequestError.at("/model", "unknown_model", f"Use one of {known}.")


STANDARD = Routing(
    models=MappingProxyType(
        {
            model.name: model
            for model in (
                Model(
                    name="standard",
                    provider="default",
                    title="Standard",
                    quality=4,
                    fallbacks=("fast",),
                ),
                Model(name="fast", provider="default", title="Fast", quality=2, economy=5, speed=5),
                Model(
                    name="advanced",
                    provider="default",
                    title="Advanced AI",
                    quality=5,
                    economy=1,
                    speed=2,
                    surcharge=100,
                ),
            )
        }
    ),
    default="standard",
)
"""The routing without a routing file."""
