"""Prompt check by word lists in a file, without network."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from creativeflow.services.aigeneration.domain.moderation import (
    ModerationOutcome,
    ModerationResult,
    SafetyRule,
    WordLists,
)

STANDARD_FILE = Path(__file__).with_suffix(".toml")

Word = Annotated[str, Field(min_length=2, max_length=100)]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    category: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    outcome: ModerationOutcome
    severe: bool = False
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2}$")]] = []
    words: list[Word] = []
    near: list[list[Word]] = []

    @model_validator(mode="after")
    def _says_something(self) -> "_Rule":
        if (
            bool(self.words) == bool(self.near)
            or any(not group for group in self.near)
            or len(self.near) == 1
        ):
            raise ValueError("a rule has either words, or near with two groups or more")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rules: list[_Rule]


class SafetyFileError(Exception):
    """The file cannot be used; the message names the place and the reason."""


class WordCheck:
    """The PromptCheck port on word lists."""

    def __init__(self, rules: Sequence[SafetyRule]) -> None:
        self._lists = WordLists(rules)

    async def check(self, texts: Sequence[str], locale: str | None) -> ModerationResult:
        """Return the strictest result for all texts."""
        return self._lists.check(texts, locale.partition("-")[0] if locale else None)


def read_rules(path: Path) -> list[SafetyRule]:
    """Read the rules from a file.

    Raises:
        SafetyFileError: it cannot be read or is not valid.
    """
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SafetyFileError(f"{path.name}: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise SafetyFileError(f"{path.name}: {error}") from error
    return [
        SafetyRule(
            category=rule.category,
            outcome=rule.outcome,
            severe=rule.severe,
            languages=frozenset(rule.languages),
            words=tuple(rule.words),
            near=tuple(tuple(group) for group in rule.near),
        )
        for rule in parsed.rules
    ]
