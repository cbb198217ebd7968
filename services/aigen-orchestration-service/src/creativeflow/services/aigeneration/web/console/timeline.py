"""One timeline of a request: its moves, its money and whoever was told, in one order with the time
in between.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.pricing import Funding
from creativeflow.services.aigeneration.web.console.labels import (
    KINDS,
    STATES,
    StateLabel,
    credits_words,
    span,
    wording,
)

LONG_SECONDS = 5.0
"""A gap of so long is drawn as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: `gap` is the time since the line before, `moved` the state that the request came
    into.
    """

    key: str
    kind: str
    title: str
    at: datetime
    data: str = ""
    moved: StateLabel | None = None
    gap: str = ""
    long: bool = False
    order: tuple[datetime, int, int] = field(repr=False)


def lines(timeline: Sequence[Mapping[str, Any]], holds: Sequence[Mapping[str, Any]]) -> list[Line]:
    """All lines, oldest first. What happened in one statement has one time, and stands in the order
    of its causes.
    """
    found = sorted([*_events(timeline), *_money(holds)], key=lambda line: line.order)
    before: Line | None = None
    spaced = []
    for line in found:
        seconds = (line.at - before.at).total_seconds() if before else 0.0
        spaced.append(
            replace(line, gap=f"+{span(seconds)}" if seconds else "", long=seconds >= LONG_SECONDS)
        )
        before = line
    return spaced


def kinds(found: Sequence[Line]) -> list[tuple[str, str, int]]:
    """The kinds that there are, with their word and how many lines each has."""
    counted = Counter(line.kind for line in found)
    return [(kind, word, counted[kind]) for kind, word in KINDS.items() if counted[kind]]


def _events(timeline: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    state: State | None = None
    for entry in timeline:
        said = wording(entry["event"], entry["data"])
        to = State(entry["state"]) if entry["state"] else None
        moved = STATES[to] if to is not None and to is not state else None
        state = to or state
        yield Line(
            key=f"event-{entry['seq']}",
            kind=said.kind,
            title=said.title,
            at=entry["at"],
            moved=moved,
            data=_shown(entry["data"] | {"event": entry["event"]}),
            order=(entry["at"], 0, entry["seq"]),
        )


def _money(holds: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """What was set aside and what became of it; the moves that caused it do not say so
    themselves.
    """
    for hold in holds:
        samples = f"samples of round {hold['round']}"
        what = f"for the {samples if hold['stage'] == 'samples' else 'final'}"
        free = hold["funding"] == Funding.ALLOWANCE
        sum_ = (
            f"A free generation of {hold['month']:%B %Y}" if free else credits_words(hold["amount"])
        )
        data = _shown({name: value for name, value in hold.items() if value is not None})
        begun = f"{sum_} {'is used' if free else 'to be set aside'} {what}"
        yield Line(
            key=f"hold-{hold['key']}",
            kind="money",
            title=begun,
            at=hold["began_at"],
            data=data,
            order=(hold["began_at"], 1, 0),
        )
        if hold["resolved_at"] is not None:
            captured = hold["state"] == "captured"
            became = ("stays used" if free else "charged") if captured else "given back"
            yield Line(
                key=f"resolved-{hold['key']}",
                kind="money",
                title=f"{sum_} {became} {what}",
                at=hold["resolved_at"],
                data=data,
                order=(hold["resolved_at"], 1, 1),
            )


def _shown(data: Mapping[str, Any]) -> str:
    return orjson.dumps(data, default=str, option=orjson.OPT_INDENT_2).decode()
