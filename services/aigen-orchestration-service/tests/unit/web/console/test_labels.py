"""Labels and formats of the console."""

from datetime import UTC, datetime, timedelta

import pytest

from creativeflow.services.aigeneration.domain import lifecycle
from creativeflow.services.aigeneration.web.console.labels import (
    EVENT_LABELS,
    STATES,
    describe_event,
    format_age,
    format_credits,
    format_duration,
    render_links,
)

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9994, "999 ms"),
        (1, "1.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_400, "1 day"),
        (180_000, "2 days 2 h"),
    ],
)
def test_format_duration_any_length_uses_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min"),
        (7300, "2 h"),
        (86_400, "1 day"),
        (200_000, "2 days"),
    ],
)
def test_format_age_any_length_uses_largest_unit(seconds: float, text: str) -> None:
    assert format_age(NOON, NOON + timedelta(seconds=seconds)) == text


def test_labels_every_state_and_event_has_one() -> None:
    assert set(STATES) == set(lifecycle.State)
    assert set(EVENT_LABELS) >= set(lifecycle.Event)
    assert all(describe_event(event, {}).title for event in lifecycle.Event)


def test_describe_event_unknown_event_falls_back_to_its_name() -> None:
    assert describe_event("something_new", {}).title == "Something new"


def test_describe_event_data_with_braces_is_not_formatted() -> None:
    title = describe_event("operator_failed", {"by": "duty", "reason": "{by.__class__}"}).title
    assert title.endswith("{by.__class__}")


def test_format_credits_any_amount_has_unit() -> None:
    assert [format_credits(amount) for amount in (0, 25, 100, 250)] == [
        "0.00 credits",
        "0.25 credits",
        "1.00 credit",
        "2.50 credits",
    ]


def test_render_links_link_into_docs_points_to_attention_page() -> None:
    assert render_links("see [a <b>](#parked-messages); 1 < 2") == (
        'see <a href="/console/attention#parked-messages">a &lt;b&gt;</a>; 1 &lt; 2'
    )
