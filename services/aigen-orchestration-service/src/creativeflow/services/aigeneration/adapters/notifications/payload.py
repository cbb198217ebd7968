"""What every receiver of notifications is told, whichever way it goes."""

from collections.abc import Mapping
from typing import Any


def told(notification: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` of a notification: the event's own, and its id, time and language."""
    return {
        **notification["data"],
        "event_id": notification["event_id"],
        "at": notification["at"],
        "locale": notification["locale"],
    }
