"""The console's small parts: charts, spans, the remembered hour, kept answers, and lines of a
timeline.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain import lifecycle
from creativeflow.services.aigeneration.domain.reconciliation import Difference
from creativeflow.services.aigeneration.domain.runbook import (
    DIFFERENCES,
    INVARIANTS,
    OUTBOX_MESSAGES,
    STALLS,
)
from creativeflow.services.aigeneration.domain.stalled_workers import StallKind
from creativeflow.services.aigeneration.storage.statistics import MinuteCounts
from creativeflow.services.aigeneration.web.console import charts
from creativeflow.services.aigeneration.web.console.cached import TimedCache
from creativeflow.services.aigeneration.web.console.labels import (
    STATES,
    credits_words,
    linked,
    since,
    span,
    wording,
)
from creativeflow.services.aigeneration.web.console.last_hour import Hour, waits
from creativeflow.services.aigeneration.web.console.timeline import kinds, lines

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


# Words


@pytest.mark.parametrize(
    ("seconds", "said"),
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
def test_a_span_is_as_exact_as_a_person_needs_it(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
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
def test_an_age_has_one_unit(seconds: float, said: str) -> None:
    assert since(NOON, NOON + timedelta(seconds=seconds)) == said


def test_every_state_and_every_event_has_words() -> None:
    assert set(STATES) == set(lifecycle.State)
    for event in lifecycle.Event:
        said = wording(event, {}).title
        assert said
        assert said != event.replace("_", " ").capitalize(), event
    assert wording("something_new", {}).title == "Something new"


def test_a_word_of_the_data_is_never_a_format() -> None:
    assert wording("operator_failed", {"by": "duty", "reason": "{by.__class__}"}).title.endswith(
        "{by.__class__}"
    )


def test_an_amount_has_its_unit() -> None:
    assert [credits_words(amount) for amount in (0, 25, 100, 250)] == [
        "0.00 credits",
        "0.25 credits",
        "1.00 credit",
        "2.50 credits",
    ]


def test_links_into_the_docs_lead_to_what_needs_attention() -> None:
    assert linked("see [a <b>](#parked-messages); 1 < 2") == (
        'see <a href="/console/attention#parked-messages">a &lt;b&gt;</a>; 1 &lt; 2'
    )


def test_everything_that_can_be_wrong_has_a_meaning() -> None:
    assert set(STALLS) == set(StallKind)
    assert set(DIFFERENCES) == set(Difference)
    assert all(
        meaning.means and meaning.then
        for meaning in [*INVARIANTS.values(), *OUTBOX_MESSAGES.values()]
    )


# Charts


@pytest.mark.parametrize(
    ("value", "top"),
    [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 5),
        (7, 10),
        (10, 10),
        (11, 20),
        (99, 100),
        (0.3, 0.5),
        (0.04, 0.05),
        (1200, 2000),
    ],
)
def test_the_top_is_the_next_round_number(value: float, top: float) -> None:
    assert charts.nice(value) == pytest.approx(top)


def test_bars_stand_on_the_floor_and_on_one_another() -> None:
    chart = charts.bars([10, 0, 5], [0, 0, 5])
    assert chart.top == 10
    assert [(bar.y, bar.height) for bar in chart.bars] == [
        (0, charts.HEIGHT),
        (charts.HEIGHT / 2, charts.HEIGHT / 2),
    ]
    assert [(bar.y, bar.height) for bar in chart.above] == [(0, charts.HEIGHT / 2)]
    assert all(
        bar.x >= 0 and bar.x + bar.width <= charts.WIDTH for bar in [*chart.bars, *chart.above]
    )
    assert charts.bars([0] * 60).bars == []


def test_a_line_breaks_where_nothing_is_known() -> None:
    chart = charts.lines([1, 2, None, 1], [None] * 4)
    assert chart.top == 2
    assert chart.lines[0].count("M") == 2
    assert chart.lines[0].count("L") == 1
    assert chart.lines[0].endswith("h3")
    assert chart.lines[1] == ""


def test_percentiles_are_by_nearest_rank() -> None:
    assert (waits([]).p50, waits([]).p95) == (None, None)
    assert (waits([3, 1, 2]).p50, waits([3, 1, 2]).p95) == (2, 3)
    assert (waits(range(1, 101)).p50, waits(range(1, 101)).p95) == (50, 95)


# The hour


async def test_finished_minutes_are_asked_for_once() -> None:
    now = NOON
    asked: list[tuple[datetime, datetime]] = []

    async def ask(since_: datetime, until: datetime) -> Sequence[MinuteCounts]:
        asked.append((since_, until))
        first = int((since_ - NOON).total_seconds() // 60)
        return [
            MinuteCounts(at=NOON + timedelta(minutes=n), accepted=1)
            for n in range(first, first + 70)
            if NOON + timedelta(minutes=n) < until
        ]

    hour = Hour(ask, lambda: now)
    first = await hour()
    assert (len(first.minutes), first.total("accepted")) == (60, 60)
    assert first.minutes[0].at == NOON - timedelta(minutes=59)
    now += timedelta(minutes=3, seconds=20)
    assert (await hour()).total("accepted") == 60
    assert asked[1][0] == NOON - timedelta(minutes=2)
    now += timedelta(hours=3)
    assert (await hour()).total("accepted") == 60
    assert asked[2][0] == now.replace(second=0) - timedelta(minutes=59)
    now -= timedelta(hours=2)  # a clock that was set back
    assert (await hour()).total("accepted") == 60


# Kept answers


async def test_many_askers_cost_one_question_and_errors_are_not_kept() -> None:
    time, asked = 0.0, []
    gate = asyncio.Event()

    async def ask() -> int:
        asked.append(time)
        await gate.wait()
        if len(asked) == 1:
            raise ValueError
        return len(asked)

    kept = TimedCache(ask, seconds=10, monotonic=lambda: time)
    assert await kept.soon(0) is None
    waiting = [asyncio.ensure_future(kept()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    assert [type(found) for found in await asyncio.gather(*waiting, return_exceptions=True)] == [
        ValueError
    ] * 3
    assert await asyncio.gather(*(kept() for _ in range(5))) == [2] * 5
    time = 9.9
    assert await kept() == 2
    time = 10.0
    assert await kept() == 3
    kept.forget()
    assert await kept() == 4
    gate.clear()
    time = 30
    assert await kept.soon(0) == 4
    await kept.close()


# Lines


def _entry(
    seq: int, seconds: float, event: str, state: str | None = None, **data: Any
) -> dict[str, Any]:
    return {
        "seq": seq,
        "at": NOON + timedelta(seconds=seconds),
        "event": event,
        "state": state,
        "version": seq,
        "data": data,
    }


def test_lines_stand_in_the_order_of_their_causes_with_the_time_between() -> None:
    hold = {
        "key": "r:samples:1",
        "stage": "samples",
        "round": 1,
        "action": "sample_generation",
        "funding": "credits",
        "amount": 25,
        "month": None,
        "state": "released",
        "began_at": NOON,
        "resolved_at": NOON + timedelta(seconds=9),
        "settled_at": None,
        "parked_at": None,
        "parked_reason": None,
    }
    found = lines(
        [
            _entry(1, 0, "submitted", "PENDING", by="odoo"),
            _entry(2, 9, "attempts_exhausted", "FAILED", code="x"),
        ],
        [hold],
    )
    assert [(line.title, line.gap, line.long) for line in found] == [
        ("Asked for by odoo", "", False),
        ("0.25 credits to be set aside for the samples of round 1", "", False),
        ("The last attempt failed: x", "+9.0 s", True),
        ("0.25 credits given back for the samples of round 1", "", False),
    ]
    assert [line.moved.words if line.moved else None for line in found] == [
        "Waits for its turn",
        None,
        "Failed",
        None,
    ]
    assert kinds(found) == [
        ("state", "State", 1),
        ("money", "Money", 2),
        ("worker", "Callbacks", 1),
    ]
    assert '"by": "odoo"' in found[0].data
