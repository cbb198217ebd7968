"""JSON responses and their headers."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from creativeflow.services.aigeneration.application.generations import ActionResult
from creativeflow.services.aigeneration.domain import errors


def json_bytes(value: Any) -> bytes:
    """Encode as JSON in UTF-8; asyncpg's UUID type becomes text."""
    return orjson.dumps(value, default=str)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response."""
    return Response(json_bytes(value), status, headers, "application/json")


def etag(version: int) -> str:
    """Return the entity tag of a version of a request."""
    return f'"{version}"'


def reply_response(reply: ActionResult) -> Response:
    """Return the response to an action; a stored response is repeated byte for byte.

    Raises:
        InsufficientCreditsError: the stored response is this error.
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
