"""The merged timeline of a request."""

from datetime import UTC, datetime, timedelta
from typing import Any

from creativeflow.services.aigeneration.web.console.timeline import build_timeline, count_kinds

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


def build_event(
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


def test_build_timeline_events_and_holds_are_ordered_by_cause_with_gaps() -> None:
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
    lines = build_timeline(
        [
            build_event(1, 0, "submitted", "PENDING", by="odoo"),
            build_event(2, 9, "attempts_exhausted", "FAILED", code="x"),
        ],
        [hold],
    )
    assert [(line.title, line.gap, line.long_gap) for line in lines] == [
        ("Submitted by odoo", "", False),
        ("0.25 credits held for the samples of round 1", "", False),
        ("Last attempt failed: x", "+9.0 s", True),
        ("0.25 credits released for the samples of round 1", "", False),
    ]
    assert [line.new_state.text if line.new_state else None for line in lines] == [
        "Queued",
        None,
        "Failed",
        None,
    ]
    assert count_kinds(lines) == [
        ("state", "State", 1),
        ("credits", "Credits", 2),
        ("worker", "Worker", 1),
    ]
    assert '"by": "odoo"' in lines[0].data
