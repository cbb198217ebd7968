"""The timeline as it is shown: runs of one event are one entry with a count."""

from collections.abc import Iterable, Mapping
from typing import Any

from creativeflow.services.aigeneration.domain.lifecycle import Event

STALE_RESULT = "stale_result"
_REPEATED = frozenset({Event.PROGRESS_REPORTED.value, STALE_RESULT})


def merge_repeats(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merge runs of one event into the last entry of the run, whose data gets `count`.

    Reports of progress, stale results, and jobs that are leased and returned again and again while
    the broker refuses them. Entries are in their order, with `event` and `data`.
    """
    merged: list[dict[str, Any]] = []
    for given in entries:
        entry = dict(given)
        while (before := _repeated(merged, entry["event"])) is not None:
            entry["data"] = {
                **entry["data"],
                "count": entry["data"].get("count", 1) + before["data"].get("count", 1),
            }
        merged.append(entry)
    return merged


def _repeated(merged: list[dict[str, Any]], event: str) -> dict[str, Any] | None:
    """Remove and return the entry that `event` repeats."""
    events = [entry["event"] for entry in merged[-2:]]
    if event in _REPEATED and events[-1:] == [event]:
        return merged.pop()
    if event == Event.JOB_RETURNED and events == [Event.JOB_RETURNED, Event.JOB_LEASED]:
        merged.pop()
        return merged.pop()
    return None
