"""Responses: JSON built once, with the headers that go with a request."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from creativeflow.services.aigeneration.application.generations import ActionResult
from creativeflow.services.aigeneration.domain import errors


def json_bytes(value: Any) -> bytes:
    """JSON text in UTF-8; the driver's own kinds of UUID become texts."""
    return orjson.dumps(value, default=str)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(json_bytes(value), status, headers, "application/json")


def etag(version: int) -> str:
    """The entity tag of a version of a request."""
    return f'"{version}"'


def reply_response(reply: ActionResult) -> Response:
    """What an action came to; an answer given before is repeated to the letter.

    Raises:
        InsufficientCreditsError: that was the answer given before.
    """
    if reply.stored is not None:
        if reply.stored.status == errors.InsufficientCreditsError.status:
            refused = orjson.loads(reply.stored.body or "{}")
            raise errors.InsufficientCreditsError(replayed=True, **refused["fields"])
        headers = {"Idempotent-Replayed": "true"}
        if reply.stored.location:
            headers["Location"] = reply.stored.location
        return Response(reply.stored.body, reply.stored.status or 200, headers, "application/json")
    headers = {"ETag": etag(reply.answer.body["version"])}
    if reply.answer.location:
        headers["Location"] = reply.answer.location
    return json_response(reply.answer.body, reply.answer.status, headers)
