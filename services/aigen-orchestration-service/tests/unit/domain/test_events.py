"""An event sets its own fields and nothing else; the table and the type checker see to it."""

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from mypy import api as mypy

from creativeflow.services.aigeneration.domain.events import (
    EVENTS,
    CancelRequested,
    DomainEvent,
    SampleSelected,
    Submitted,
    names_of,
)
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, Event, Stage, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import Context, apply
from tests.support.builders import NOW, a_hold, a_request, new_ids

SERVICE = Path(__file__).parents[3]
DECIDED_BY_THE_TABLE = {"state", "version", "updated_at"}
every_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)


def test_events_every_event_has_one_class() -> None:
    assert sorted(event.kind for event in EVENTS) == sorted(Event)
    assert {event for _, event in TRANSITIONS} == set(Event)


@every_event
def test_event_fields_are_fields_of_a_request(event: Any) -> None:
    known = {each.name for each in fields(GenerationRequest)} | {"origin"}
    assert set(names_of(event)) <= known - DECIDED_BY_THE_TABLE
    assert "origin" not in names_of(event) or event is Submitted


@every_event
def test_event_fields_have_the_types_of_the_request(event: Any) -> None:
    if event is Submitted:
        return  # its request is built field by field, which mypy checks
    theirs, ours = get_type_hints(GenerationRequest), get_type_hints(event)
    for name in names_of(event):
        assert _members(ours[name]) <= _members(theirs[name]), name


def _members(hint: Any) -> set[Any]:
    return set(get_args(hint)) if isinstance(hint, UnionType) else {hint}


def test_apply_ignores_a_state_version_or_time_that_an_event_carries() -> None:
    class Forged(CancelRequested):
        def fields_to_set(self) -> dict[str, Any]:
            later = NOW + timedelta(days=1)
            return {"state": State.COMPLETED, "version": 99, "updated_at": later}

    context = Context(policy=Policy(), now=NOW, new_id=new_ids())
    after = apply(a_request(version=3), Forged(), context).after
    assert (after.state, after.version, after.updated_at) == (State.CANCELLED, 4, NOW)


@pytest.mark.parametrize("name", sorted(DECIDED_BY_THE_TABLE))
def test_events_refuse_fields_of_the_table(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        CancelRequested(**{name: "x"})


def test_events_misspelt_field_fails_mypy(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "from creativeflow.services.aigeneration.domain.events import ProgressReported\n"
        "ProgressReported(progress={}, samples=(), percent=3)\n"
        "ProgressReported(progress={}, samples=[])\n"
        "ProgressReported(progress={}, samples=())\n"
    )
    arguments = ["--strict", "--config-file", str(SERVICE / "pyproject.toml"), str(snippet)]
    report, _, status = mypy.run(arguments)
    assert status == 1
    found = {int(line.split(":")[1]) for line in report.splitlines() if ": error:" in line}
    assert found == {2, 3}, report


def test_sample_selected_pending_round_trip_is_equal() -> None:
    hold = a_hold(stage=Stage.FINAL)
    selected = SampleSelected(
        selected_sample_id="sample-2",
        final_size=Size(2048, 2048),
        file_format="jpg",
        plan="pro",
        route=None,
    )
    pending = selected.to_pending()
    assert pending["event"] == "sample_selected"
    restored: DomainEvent = SampleSelected.from_pending(pending["fields"], hold, {"hold": "key"})
    assert restored.fields_to_set() == selected.fields_to_set()
