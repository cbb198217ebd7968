"""Word lists: find words and patterns in a prompt, through the usual disguises.

A text is folded before it is matched: compatibility forms, case, accents, zero-width characters,
letters of other alphabets that look alike, digits and signs that stand for letters, and letters set
apart. Words are whole words, so that a harmless word that contains a bad one stays harmless.
"""

import re
import unicodedata
from bisect import bisect, bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import groupby

NEAR_WORDS = 8
"""Maximum number of words between the words of a combination."""


class ModerationOutcome(StrEnum):
    """The decision on a prompt."""

    ALLOW = "allow"
    REVIEW = "review"
    """An operator decides."""
    REJECT = "reject"


_SEVERITY = {ModerationOutcome.ALLOW: 0, ModerationOutcome.REVIEW: 1, ModerationOutcome.REJECT: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationResult:
    """The result of a check and its category; `severe` counts towards the account's restriction."""

    outcome: ModerationOutcome
    category: str | None = None
    severe: bool = False

    @classmethod
    def worst(cls, results: Iterable["ModerationResult"]) -> "ModerationResult":
        """Return the strictest of several results."""
        return max(
            results, key=lambda result: (_SEVERITY[result.outcome], result.severe), default=ALLOWED
        )


ALLOWED = ModerationResult(outcome=ModerationOutcome.ALLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyRule:
    """Words that match alone, or combinations of words that match near one another; `*` stands for
    any ending.

    `languages`: the request languages for which the rule applies, such as `en`; empty for all.
    """

    category: str
    outcome: ModerationOutcome
    severe: bool = False
    languages: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    near: tuple[tuple[str, ...], ...] = ()


class WordLists:
    """Compiled rules; one search tells whether any word of any rule occurs, which is rare."""

    def __init__(self, rules: Sequence[SafetyRule]) -> None:
        self._rules = [
            (rule, _any_of(rule.words), [_any_of(group) for group in rule.near]) for rule in rules
        ]
        every = [
            word for rule in rules for word in (*rule.words, *(rule.near[0] if rule.near else ()))
        ]
        self._any = _any_of(every)

    def check(self, texts: Iterable[str], language: str | None) -> ModerationResult:
        """Return the strictest result of all rules on all texts; `language` is the request's,
        None if it is not known.
        """
        found = []
        for text in texts:
            for folded in fold(text):
                if self._any and self._any.search(folded):
                    found += [
                        ModerationResult(
                            outcome=rule.outcome, category=rule.category, severe=rule.severe
                        )
                        for rule, words, near in self._rules
                        if _counts(rule, language)
                        and (_occurs(words, folded) or _occur_near(near, folded))
                    ]
        return ModerationResult.worst(found)


def fold(text: str) -> list[str]:
    """Return the text with disguises removed, once for each reading of an ambiguous character."""
    plain = text.lower() if text.isascii() else _without_marks(text)
    readings = [_words(plain)]
    if _DISGUISED.search(plain):
        readings += [_words(plain.translate(signs)) for signs in (_SIGNS_I, _SIGNS_L)]
    readings += [_REPEATED.sub(r"\1", reading) for reading in readings if _REPEATED.search(reading)]
    readings += [
        _SPELT.sub(lambda run: run[0].replace(" ", ""), reading)
        for reading in readings
        if _SPELT.search(reading)
    ]
    return readings if len(readings) == 1 else sorted(set(readings))


def _words(plain: str) -> str:
    return _SPLIT.sub(" ", plain).strip()


def _without_marks(text: str) -> str:
    return "".join(map(_without_mark, text))


@lru_cache(maxsize=4_096)
def _without_mark(letter: str) -> str:
    """Return a character without marks, as the letters that it looks like; a space if it has none.

    Some characters decompose into a sentence: without letters that a rule can contain, they cost no
    more than any other.
    """
    decomposed = unicodedata.normalize("NFKD", letter).casefold()
    plain = "".join(
        part for part in decomposed if unicodedata.category(part) not in {"Mn", "Cf", "Me"}
    ).translate(_LOOKALIKES)
    return plain if not plain or _READABLE.search(plain) else " "


def _counts(rule: SafetyRule, language: str | None) -> bool:
    return not rule.languages or language is None or language in rule.languages


def _occurs(words: re.Pattern[str] | None, folded: str) -> bool:
    return words is not None and words.search(folded) is not None


def _occur_near(groups: Sequence[re.Pattern[str] | None], folded: str) -> bool:
    """Return whether a word of each group is within a few words of one of the first; linear in the
    length of the text.
    """
    patterns = [group for group in groups if group is not None]
    if not patterns or len(patterns) < len(groups):
        return False
    spaces = [place for place, letter in enumerate(folded) if letter == " "]
    found = [
        [(bisect(spaces, match.start()), bisect(spaces, match.end() - 1)) for match in matches]
        for matches in (group.finditer(folded) for group in patterns)
    ]
    starts = [[start for start, _ in places] for places in found]

    def is_near(group: int, word: int) -> bool:
        place = bisect_left(starts[group], word - NEAR_WORDS)
        return place < len(found[group]) and found[group][place][1] <= word + NEAR_WORDS

    others = range(1, len(patterns))
    return any(all(is_near(group, word) for group in others) for word in starts[0])


def _any_of(words: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern that matches any of the words, grouped by first letter so that most are
    skipped.
    """
    if not words:
        return None
    forms = sorted({re.escape(_plain(word)).replace(r"\*", r"[a-z]*") for word in words})
    letters = [
        f"{letter}(?:{'|'.join(form.removeprefix(letter) for form in group)})"
        for letter, group in groupby(forms, key=lambda form: form[0] if form[0].isalnum() else "")
    ]
    return re.compile(rf"(?<![a-z])(?:{'|'.join(letters)})(?![a-z])")


def _plain(word: str) -> str:
    """Return a word as `fold` returns it, with its star."""
    folded = unicodedata.normalize("NFKD", word).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter) != "Mn")


_READABLE = re.compile(r"[a-z0-9@$!|+€£]")
_SPLIT = re.compile(r"[^a-z0-9]+")
_DISGUISED = re.compile(r"[0-9@$!|+€£]")
_REPEATED = re.compile(r"([a-z])\1{2,}")
_SPELT = re.compile(r"(?<![a-z])[a-z](?: [a-z])+(?![a-z])")
_SIGNS = {
    "0": "o",
    "2": "z",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "€": "e",
    "£": "l",
    "+": "t",
}
_SIGNS_I = str.maketrans(_SIGNS | dict.fromkeys("1!|", "i"))
_SIGNS_L = str.maketrans(_SIGNS | dict.fromkeys("1!|", "l"))
# Cyrillic and Greek letters that look like Latin ones, and letters that do not fall apart into one
# and an accent.
_LOOKALIKES = str.maketrans(
    {
        "\u0430": "a",
        "\u0432": "b",
        "\u0435": "e",
        "\u043a": "k",
        "\u043c": "m",
        "\u043d": "h",
        "\u043e": "o",
        "\u0440": "p",
        "\u0441": "c",
        "\u0442": "t",
        "\u0443": "y",
        "\u0445": "x",
        "\u0456": "i",
        "\u0458": "j",
        "\u0455": "s",
        "\u0501": "d",
        "\u051b": "q",
        "\u03b1": "a",
        "\u03b2": "b",
        "\u03b5": "e",
        "\u03b7": "n",
        "\u03b9": "i",
        "\u03ba": "k",
        "\u03bd": "v",
        "\u03bf": "o",
        "\u03c1": "p",
        "\u03c4": "t",
        "\u03c5": "u",
        "\u03c7": "x",
        "\u0131": "i",
        "\u0142": "l",
        "\u00f8": "o",
        "\u0111": "d",
    }
)


class WhenAway(StrEnum):
    """The handling of prompts while the check is unavailable."""

    REFUSE = "refuse"
    REVIEW = "review"
    ALLOW = "allow"
