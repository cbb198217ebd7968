"""Notifications in the log of the service, for trials."""

from collections.abc import Mapping
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class LogNotifier:
    """The Notifier port on the log: names the event, never user or content."""

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Log one notification."""
        log.info(
            "notification",
            event_type=notification["event_type"],
            event_id=notification["event_id"],
            generation_request_id=notification["data"].get("generation_request_id"),
        )
