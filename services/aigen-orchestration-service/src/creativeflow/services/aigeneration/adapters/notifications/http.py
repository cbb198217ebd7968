"""Notifications by HTTP POST to a notification service."""

from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from creativeflow.services.aigeneration.adapters.notifications.payload import notification_data
from creativeflow.services.aigeneration.ports import NotifierRefusedError, NotifierUnavailableError

_TRY_AGAIN = {408, 409, 425, 429}


class HttpNotifier:
    """The Notifier port on HTTP: any 2xx is delivered; most other 4xx are final; the rest is
    retried.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, url: str, api_key: str | None, channels: list[str]
    ) -> None:
        self._client = client
        self._url = url
        self._headers = {"Content-Type": "application/json"} | (
            {"X-Internal-API-Key": api_key} if api_key else {}
        )
        self._channels = channels

    async def send(self, notification: Mapping[str, Any]) -> None:
        """POST one notification with its event id as Idempotency-Key."""
        body = {
            "user_id": notification["user_id"],
            "event_type": notification["event_type"],
            "data": notification_data(notification),
            "target_channels": self._channels,
        }
        headers = self._headers | {
            "Idempotency-Key": notification["event_id"],
            "X-Request-ID": notification["correlation_id"],
        }
        try:
            answer = await self._client.post(self._url, content=orjson.dumps(body), headers=headers)
        except httpx.HTTPError as error:
            raise NotifierUnavailableError(f"no answer: {type(error).__name__}") from error
        if answer.is_success:
            return
        if 400 <= answer.status_code < 500 and answer.status_code not in _TRY_AGAIN:  # noqa: PLR2004 - HTTP's classes
            raise NotifierRefusedError(f"the notification service answers {answer.status_code}")
        raise NotifierUnavailableError(f"the notification service answers {answer.status_code}")
