"""The merged timeline of a request: its events and its holds in one order, with gaps."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.pricing import Funding
from creativeflow.services.aigeneration.web.console.labels import (
    LINE_KINDS,
    STATES,
    StateLabel,
    describe_event,
    format_credits,
    format_duration,
)

LONG_GAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineLine:
    """One line; `gap` is the time since the previous line, `new_state` set on a state change."""

    key: str
    kind: str
    title: str
    at: datetime
    data: str = ""
    new_state: StateLabel | None = None
    gap: str = ""
    long_gap: bool = False
    order: tuple[datetime, int, int] = field(repr=False)


def build_timeline(
    events: Sequence[Mapping[str, Any]], holds: Sequence[Mapping[str, Any]]
) -> list[TimelineLine]:
    """Merge events and holds, oldest first.

    What one statement wrote has one time; such lines are ordered by cause: events before the
    holds that they began or resolved.
    """
    merged = sorted([*_build_events(events), *_build_holds(holds)], key=lambda line: line.order)
    previous: TimelineLine | None = None
    lines = []
    for line in merged:
        seconds = (line.at - previous.at).total_seconds() if previous else 0.0
        gap = f"+{format_duration(seconds)}" if seconds else ""
        lines.append(replace(line, gap=gap, long_gap=seconds >= LONG_GAP_SECONDS))
        previous = line
    return lines


def count_kinds(lines: Sequence[TimelineLine]) -> list[tuple[str, str, int]]:
    """Return the kinds that occur, each with its title and number of lines."""
    counts = Counter(line.kind for line in lines)
    return [(kind, title, counts[kind]) for kind, title in LINE_KINDS.items() if counts[kind]]


def _build_events(events: Sequence[Mapping[str, Any]]) -> Iterator[TimelineLine]:
    state: State | None = None
    for entry in events:
        label = describe_event(entry["event"], entry["data"])
        to = State(entry["state"]) if entry["state"] else None
        new_state = STATES[to] if to is not None and to is not state else None
        state = to or state
        yield TimelineLine(
            key=f"event-{entry['seq']}",
            kind=label.kind,
            title=label.title,
            at=entry["at"],
            new_state=new_state,
            data=_format_data(entry["data"] | {"event": entry["event"]}),
            order=(entry["at"], 0, entry["seq"]),
        )


def _build_holds(holds: Sequence[Mapping[str, Any]]) -> Iterator[TimelineLine]:
    """Build the lines of holds, whose amounts are not in the events that caused them."""
    for hold in holds:
        samples = f"samples of round {hold['round']}"
        purpose = f"for the {samples if hold['stage'] == 'samples' else 'final'}"
        is_free = hold["funding"] == Funding.ALLOWANCE
        amount = (
            f"Free generation of {hold['month']:%B %Y}"
            if is_free
            else format_credits(hold["amount"])
        )
        data = _format_data({name: value for name, value in hold.items() if value is not None})
        yield TimelineLine(
            key=f"hold-{hold['key']}",
            kind="credits",
            title=f"{amount} held {purpose}",
            at=hold["began_at"],
            data=data,
            order=(hold["began_at"], 1, 0),
        )
        if hold["resolved_at"] is not None:
            captured = "used" if is_free else "captured"
            outcome = captured if hold["state"] == "captured" else "released"
            yield TimelineLine(
                key=f"resolved-{hold['key']}",
                kind="credits",
                title=f"{amount} {outcome} {purpose}",
                at=hold["resolved_at"],
                data=data,
                order=(hold["resolved_at"], 1, 1),
            )


def _format_data(data: Mapping[str, Any]) -> str:
    return orjson.dumps(data, default=str, option=orjson.OPT_INDENT_2).decode()
