"""The payload of a notification, the same for every transport."""

from collections.abc import Mapping
from typing import Any


def notification_data(notification: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data` of a notification: that of the event, with its id, time and language."""
    return {
        **notification["data"],
        "event_id": notification["event_id"],
        "at": notification["at"],
        "locale": notification["locale"],
    }
