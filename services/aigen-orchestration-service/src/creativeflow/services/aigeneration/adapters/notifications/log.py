"""Notifications into our own log: for a laptop, and wherever nobody is to be told."""

from collections.abc import Mapping
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class LogNotifier:
    """The Notifier port that only writes a line; it names the event, never the user or the
    content.
    """

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Write one line."""
        log.info(
            "notification",
            event_type=notification["event_type"],
            event_id=notification["event_id"],
            generation_request_id=notification["data"].get("generation_request_id"),
        )
