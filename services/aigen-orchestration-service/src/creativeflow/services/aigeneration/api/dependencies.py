"""Dependencies of the endpoints: caller, idempotency key, preconditions, owned requests."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Path, Request
from pydantic import BaseModel

from creativeflow.services.aigeneration.api.auth import Principal
from creativeflow.services.aigeneration.api.schemas.generations import ActionBody
from creativeflow.services.aigeneration.api.services import Services, services_of
from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.storage.queries import Queries

PAGE_MAX = 100
KEY_MAX = 255


def _header(name: str, about: str, **bounds: int) -> dict[str, Any]:
    schema = {"type": "string", **bounds}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


_KEY = _header(
    "Idempotency-Key",
    f"1 to {KEY_MAX} characters: repeating the key with the same body returns the same response.",
    minLength=1,
    maxLength=KEY_MAX,
)
_MATCH = _header("If-Match", "The version (ETag) the caller has seen; another one is answered 412.")
KEYED = {"parameters": [_KEY]}
KEYED_AND_MATCHED = {"parameters": [_KEY, _MATCH]}
"""Headers that are read directly: the framework's header parameters take a tenth of the time of a
call.
"""


def key_claim(
    request: Request, principal: Principal, body: BaseModel | None
) -> IdempotencyClaim | None:
    """Return the caller's claim on an idempotency key; its fingerprint covers path and body.

    Raises:
        IdempotencyKeyRequiredError: the settings require a key and there is none, or it is empty or
        too long.
    """
    key = request.headers.get("idempotency-key")
    if key is None and not services_of(request).settings.require_idempotency_key:
        return None
    if key is None or not (0 < len(key) <= KEY_MAX and key.isprintable()):
        raise errors.IdempotencyKeyRequiredError
    sent = body.model_dump(mode="json", exclude_unset=True) if body else None
    text = orjson.dumps([request.method, request.url.path, sent], option=orjson.OPT_SORT_KEYS)
    return IdempotencyClaim(
        principal=principal.owner, key=key, fingerprint=hashlib.sha256(text).hexdigest()
    )


def build_caller(request: Request, principal: Principal, body: BaseModel | None = None) -> Caller:
    """The caller of an action on an existing request.

    Raises:
        UserMismatchError: the body names another user than the token or the header.
    """
    named = body.user_id if isinstance(body, ActionBody) else None
    return Caller(
        name=principal.identity,
        user_id=principal.confined_to(named),
        expected_versions=header_versions(request.headers.get("if-match")),
        claim=key_claim(request, principal, body),
    )


async def get_owned_request(
    reading: Queries, request_id: UUID, principal: Principal
) -> GenerationRequest:
    """Load a request that the caller may see.

    Raises:
        NotFoundError: it does not exist or belongs to another user.
    """
    found = await reading.request(request_id)
    if found is None or principal.user_id not in {None, found.user_id}:
        raise errors.NotFoundError
    return found


def header_versions(header: str | None) -> frozenset[int] | None:
    """Return the versions of an If-Match or If-None-Match header; None for `*`."""
    if header is None or header.strip() == "*":
        return None
    named = (part.strip().removeprefix("W/").strip('"') for part in header.split(",")[:20])
    return frozenset(int(tag) for tag in named if tag.isascii() and tag.isdigit() and len(tag) < 10)  # noqa: PLR2004


def to_utc(name: str, moment: datetime | None) -> datetime | None:
    """Convert a query parameter to UTC; without a time zone, or out of range, it is rejected."""
    if moment is None:
        return None
    try:
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except OverflowError:
        pass
    raise errors.InvalidRequestError.at(
        f"/query/{name}", "invalid_time", "Give a time with its zone, such as 2026-01-31T12:00:00Z."
    )


HoldKey = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}:(samples|final):[0-9]{1,4}(:[0-9]{1,4})?$")]
"""The key of a hold; keys of the first releases have no number of the asking."""


async def queues_now(services: Services) -> dict[str, Any]:
    """Return the lanes, the outbox, the broker's queues (None if unknown), and stalled lanes."""
    depths: dict[str, Any] = {}
    if services.broker is not None:
        for name in services.broker_queues:
            depth = await services.broker.queue_depth(name)
            depths[name] = {"messages": depth[0], "consumers": depth[1]} if depth else None
    return {
        "lanes": await services.queries.lanes(),
        "outbox": await services.queries.messages(),
        "broker": depths,
        "stalled": await services.watchdog.look(),
    }
