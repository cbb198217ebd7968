"""Translations of titles and sentences: English from the error classes, others from `locales/`."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Self

from creativeflow.services.aigeneration.domain.errors import AigenError

DEFAULT_LANGUAGE = "en-US"
LANGUAGES = ("en-US", "en-GB", "es-ES", "es-MX", "fr-FR", "de-DE")
"""The languages of the product; one without a file falls back to English."""


class Translations:
    """Titles and sentences by language and error code."""

    def __init__(self, texts: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
        self._texts = texts

    @classmethod
    def load(cls) -> Self:
        """Read every `locales/<language>.json`: `{"<code>": {"title": …, "sentence": …}}`."""
        folder = files("creativeflow.services.aigeneration") / "locales"
        found = {}
        for language in LANGUAGES:
            entry = folder / f"{language}.json"
            if entry.is_file():
                found[language] = json.loads(entry.read_text(encoding="utf-8"))
        return cls(found)

    def choose(self, accept_language: str | None) -> str:
        """Return the best available language for an Accept-Language header; English if none
        matches.
        """
        for wanted in _by_weight(accept_language or ""):
            for language in (DEFAULT_LANGUAGE, *self._texts):
                if wanted in {language.lower(), language.partition("-")[0].lower()}:
                    return language
        return DEFAULT_LANGUAGE

    def title(self, error: AigenError, language: str) -> str:
        """Return the title of an error."""
        return self._texts.get(language, {}).get(error.code, {}).get("title", error.title)

    def sentence(self, error: AigenError, language: str) -> str:
        """Return the sentence of an error with its values."""
        template = self._texts.get(language, {}).get(error.code, {}).get("sentence")
        return template.format_map(error.fields) if template else str(error)


def _by_weight(header: str) -> list[str]:
    wanted = []
    for position, part in enumerate(header.split(",")[:20]):
        name, _, weight = part.partition(";q=")
        try:
            wanted.append((-float(weight or 1), position, name.strip().lower()))
        except ValueError:
            continue
    return [name for weight, _, name in sorted(wanted) if name and weight]
