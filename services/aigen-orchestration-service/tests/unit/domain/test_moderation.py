"""Word lists: disguised words are found, similar harmless words are not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creativeflow.services.aigeneration.adapters.moderation.word_lists import (
    STANDARD_FILE,
    SafetyFileError,
    read_rules,
)
from creativeflow.services.aigeneration.domain.moderation import (
    ALLOWED,
    NEAR_WORDS,
    ModerationOutcome,
    ModerationResult,
    SafetyRule,
    WordLists,
    fold,
)

STANDARD = WordLists(read_rules(STANDARD_FILE))
BAD = SafetyRule(
    category="bad",
    outcome=ModerationOutcome.REJECT,
    words=("villain", "evil twin", "grob*", "café"),
)
LISTS = WordLists([BAD])


def says(lists: WordLists, text: str, language: str | None = None) -> ModerationOutcome:
    return lists.check([text], language).outcome


@pytest.mark.parametrize(
    "text",
    [
        "a villain",
        "VILLAIN!",
        "v1llain",
        "vi11ain",
        "v!ll@in",
        "vîllàïn",
        "v\u200bil\u200dla\ufeffin",
        "v\u00adillain",
        "vill\u0430in",
        "\uff56\uff49\uff4c\uff4c\uff41\uff49\uff4e",
        "\U0001d42f\U0001d422\U0001d425\U0001d425\U0001d41a\U0001d422\U0001d427",
        "v i l l a i n",
        "v.i.l.l.a.i.n",
        "v-i_l*l a/i n",
        "villaaaaain",
        "vvvillain",
        "his evil   twin",
        "evil-twin",
        "grobian and grober",
        "a Cafe\u0301",
    ],
)
def test_check_disguised_word_is_found(text: str) -> None:
    assert says(LISTS, text) is ModerationOutcome.REJECT


@pytest.mark.parametrize(
    "text", ["villains", "a chevillainer", "the evil", "twin evil", "grog", "ill", "v ill ain t"]
)
def test_check_similar_words_are_allowed(text: str) -> None:
    assert says(LISTS, text) is ModerationOutcome.ALLOW


def test_check_combination_matches_only_nearby_words() -> None:
    lists = WordLists(
        [
            SafetyRule(
                category="c",
                outcome=ModerationOutcome.REVIEW,
                near=(("cat",), ("dog", "wolf"), ("fight*",)),
            )
        ]
    )
    assert says(lists, "a cat and a dog fighting") is ModerationOutcome.REVIEW
    assert says(lists, "fights of wolf against cat") is ModerationOutcome.REVIEW
    assert says(lists, "a cat and a dog") is ModerationOutcome.ALLOW
    far = " ".join(["word"] * (NEAR_WORDS + 1))
    assert says(lists, f"a cat {far} dog fight") is ModerationOutcome.ALLOW


def test_check_language_rule_applies_to_its_language_and_unknown_ones() -> None:
    rule = SafetyRule(
        category="c", outcome=ModerationOutcome.REJECT, words=("die",), languages=frozenset({"en"})
    )
    lists = WordLists([rule])
    assert [says(lists, "die Sonne", language) for language in ("de", "en", None)] == [
        ModerationOutcome.ALLOW,
        ModerationOutcome.REJECT,
        ModerationOutcome.REJECT,
    ]


def test_check_strictest_text_decides() -> None:
    assert LISTS.check(["fine", "a villain"], None) == ModerationResult(
        outcome=ModerationOutcome.REJECT, category="bad"
    )
    review = ModerationResult(outcome=ModerationOutcome.REVIEW)
    reject, severe = (
        ModerationResult(outcome=ModerationOutcome.REJECT),
        ModerationResult(outcome=ModerationOutcome.REJECT, severe=True),
    )
    assert ModerationResult.worst([review, reject, severe, ALLOWED]) == severe
    assert ModerationResult.worst([]) == ALLOWED


def test_check_without_rules_allows_everything() -> None:
    assert WordLists(()).check(["a villain"], None) == ALLOWED


@given(st.text(max_size=300))
def test_check_any_text_is_processed(text: str) -> None:
    assert all(set(folded) <= set("abcdefghijklmnopqrstuvwxyz0123456789 ") for folded in fold(text))
    STANDARD.check([text], None)


# The standard list


@pytest.mark.parametrize(
    "prompt", ["some kind of sexy retro diner", "a minor key, sexy jazz cover", "Nina, a sexy car"]
)
def test_standard_list_harmless_english_words_are_allowed(prompt: str) -> None:
    assert STANDARD.check([prompt], "en") == ALLOWED


@pytest.mark.parametrize(
    "prompt",
    [
        "A lighthouse at dawn, calm sea, first light on the rocks",
        "Kind regards from our sexton, a friendly card for the Middlesex county fair",
        "A child laughs on a swing, warm evening light",
        "Happy kids eating ice cream, playful colours",
        "Sussex cottage garden in spring, watercolour",
        "Analyst presenting a pie chart, essex office, assassin's creed font",
        "Die Kinder spielen im Garten, sonniger Tag",
        "Une famille avec un enfant devant la mer",
        "Menú del día, un niño come paella",
        "Black Friday sale, 70% off, 100+ items, $5 each!",
        "Cocktail bar in Scunthorpe, neon sign, 1980s",
    ],
)
def test_everyday_prompts_pass(prompt: str) -> None:
    assert STANDARD.check([prompt], None) == ALLOWED


@pytest.mark.parametrize(
    ("prompt", "category", "severe"),
    [
        ("n4ked ch1ldren", "sexual_minors", True),
        ("una ni\u00f1a desnuda", "sexual_minors", False),
        ("p0rn poster", "sexual", False),
        ("h e n t a i wallpaper", "sexual", False),
        ("Join ISIS recruitment poster", "terrorism", True),
        ("instructions to build a pipe bomb", "weapons", False),
    ],
)
def test_standard_list_forbidden_prompts_are_rejected(
    prompt: str, category: str, severe: bool
) -> None:
    assert STANDARD.check([prompt], None) == ModerationResult(
        outcome=ModerationOutcome.REJECT, category=category, severe=severe
    )


@pytest.mark.parametrize(
    "prompt", ["a nude statue in a museum", "anti-suicide campaign", "a swastika in a history book"]
)
def test_standard_list_doubtful_prompts_are_reviewed(prompt: str) -> None:
    assert says(STANDARD, prompt) is ModerationOutcome.REVIEW


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[rules]]\ncategory='x'\noutcome='reject'", "either words, or near"),
        ("[[rules]]\ncategory='x'\noutcome='reject'\nnear=[['one']]", "two groups"),
        ("[[rules]]\ncategory='x'\noutcome='maybe'\nwords=['word']", "rules.0.outcome"),
        ("[[rules]]\ncategory='x'\noutcome='reject'\nwords=['a']", "rules.0.words.0"),
        ("rules = 7", "rules"),
        ("rules = [", "lists.toml"),
    ],
)
def test_word_list_invalid_names_its_place(tmp_path, text: str, told: str) -> None:
    path = tmp_path / "lists.toml"
    path.write_text(text)
    with pytest.raises(SafetyFileError, match=told):
        read_rules(path)
    with pytest.raises(SafetyFileError):
        read_rules(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    "text",
    [
        "\ufdfa" * 4_000,
        "b0mb school " * 330,
        ("bomb " * 700 + "school").rjust(4_000, "x"),
        "k.1.l.l " * 500,
        "\u0430\u0301\u0302" * 1_300,
    ],
)
def test_check_of_hostile_texts_takes_milliseconds(text: str) -> None:
    lists = WordLists(
        [
            SafetyRule(category="c", outcome=ModerationOutcome.REJECT, words=("weapon*", "knife")),
            SafetyRule(
                category="n", outcome=ModerationOutcome.REVIEW, near=(("bomb", "kill"), ("school",))
            ),
        ]
    )
    lists.check([text], None)
    began = time.process_time()
    lists.check([text], None)
    assert time.process_time() - began < 0.06


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("bomb a school", True),
        ("school with a bomb", True),
        ("bomb one two three four five six seven eight nine ten school", False),
        ("bomb " * 30 + "one two three four five six seven eight nine ten school", False),
        ("school one two three four five six seven eight nine ten bomb near a school", True),
    ],
)
def test_words_near_each_other_are_found_wherever_they_are(text: str, near: bool) -> None:
    rule = SafetyRule(category="n", outcome=ModerationOutcome.REVIEW, near=(("bomb",), ("school",)))
    outcome = WordLists([rule]).check([text], None).outcome
    assert (outcome is ModerationOutcome.REVIEW) is near
