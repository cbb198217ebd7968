"""Starting, following and steering generation requests."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from creativeflow.services.aigeneration.api import schemas
from creativeflow.services.aigeneration.api.access import AnyCaller, Principal
from creativeflow.services.aigeneration.api.answers import etag, json_response, reply_response
from creativeflow.services.aigeneration.api.cursors import read_cursor, write_cursor
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.change import KeyClaim
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import Request as GenerationRequest
from creativeflow.services.aigeneration.domain.resource import resource
from creativeflow.services.aigeneration.orchestration import Caller, Orchestrator, Submission
from creativeflow.services.aigeneration.storage.queries import Filters, Queries

PAGE_MAX = 100
KEY_MAX = 255

router = APIRouter(prefix="/api/v1/generation-requests", tags=["generation requests"], route_class=JsonRoute)


def _header(name: str, about: str, **bounds: int) -> dict[str, Any]:
    schema = {"type": "string", **bounds}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


_KEY = _header(
    "Idempotency-Key", f"1 to {KEY_MAX} characters: the same key and body give the same answer once more.",
    minLength=1, maxLength=KEY_MAX,
)  # fmt: skip
_MATCH = _header("If-Match", "The version (ETag) the caller has seen; another one is answered 412.")
KEYED = {"parameters": [_KEY]}
KEYED_AND_MATCHED = {"parameters": [_KEY, _MATCH]}
"""Headers that are read by hand: the framework's way costs every call a tenth of its time."""


def orchestrator(request: Request) -> Orchestrator:
    """The orchestrator of this process."""
    found: Orchestrator = request.app.state.orchestrator
    return found


def queries(request: Request) -> Queries:
    """The reads of this process."""
    found: Queries = request.app.state.queries
    return found


def key_claim(request: Request, principal: Principal, body: BaseModel | None) -> KeyClaim | None:
    """The caller's claim on an idempotency key; another address or body gives another fingerprint.

    Raises:
        IdempotencyKeyRequiredError: there is none and the settings want one, or it is empty or too long.
    """
    key = request.headers.get("idempotency-key")
    if key is None and not request.app.state.settings.require_idempotency_key:
        return None
    if key is None or not (0 < len(key) <= KEY_MAX and key.isprintable()):
        raise errors.IdempotencyKeyRequiredError
    said = body.model_dump(mode="json", exclude_unset=True) if body else None
    text = orjson.dumps([request.method, request.url.path, said], option=orjson.OPT_SORT_KEYS)
    return KeyClaim(principal=principal.owner, key=key, fingerprint=hashlib.sha256(text).hexdigest())


def acting(request: Request, principal: Principal, body: BaseModel | None = None) -> Caller:
    """The caller of an action on an existing request."""
    return Caller(
        name=principal.name,
        user_id=principal.user_id,
        expected_versions=_versions(request.headers.get("if-match")),
        claim=key_claim(request, principal, body),
    )


@router.post(
    "",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 409, 413, 422, 429, 503),
    openapi_extra=KEYED,
    summary="Start a generation",
)
async def create(
    body: schemas.CreateRequest,
    request: Request,
    principal: AnyCaller,
) -> Response:
    """Check plan and credits, hold what it costs, and queue the job. Nothing is charged before samples come."""
    order = _submission(body, request, principal)
    return reply_response(await orchestrator(request).submit(order, key_claim(request, principal, body)))


@router.post(
    "/quote", response_model=schemas.Quote, responses=problems(401, 403, 422, 503), summary="What it would cost"
)
async def quote(body: schemas.CreateRequest, request: Request, principal: AnyCaller) -> Response:
    """The same body as for a start: every price, what pays for it, and what it would leave. Starts nothing."""
    order = _submission(body, request, principal)
    return json_response(await orchestrator(request).quote(order.user_id, order.brief))


@router.get("", response_model=schemas.Page, responses=problems(401, 422), summary="List requests")
async def list_requests(
    request: Request,
    principal: AnyCaller,
    status: Annotated[list[State] | None, Query(max_length=len(State))] = None,
    user_id: schemas.Identifier | None = None,
    project_id: schemas.Identifier | None = None,
    created_from: schemas.Moment | None = None,
    created_to: schemas.Moment | None = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> Response:
    """Newest first. A user sees their own; a service sees all, or those of the user it names."""
    filters = Filters(
        user_id=principal.user_id or user_id, project_id=project_id, states=status or (),
        created_from=_utc("created_from", created_from), created_to=_utc("created_to", created_to),
        before=read_cursor(cursor),
    )  # fmt: skip
    if principal.user_id is not None and user_id not in {None, principal.user_id}:
        return json_response({"items": [], "next": None})
    found = await queries(request).page(filters, limit + 1)
    items, following = found[:limit], write_cursor(found[limit - 1].id) if len(found) > limit else None
    headers = {"Link": f'<{request.url.include_query_params(cursor=following)}>; rel="next"'} if following else None
    return json_response({"items": [resource(item) for item in items], "next": following}, headers=headers)


@router.get(
    "/{request_id}",
    response_model=schemas.GenerationRequest,
    responses=problems(401, 404) | {304: {"description": "Not changed since the version in If-None-Match"}},
    summary="One request",
)
async def get_request(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """Where it stands, what it cost, and what can be done now."""
    found = await own(queries(request), request_id, principal)
    position = await queries(request).queue_position(found)
    tag = etag(found.version)
    seen = request.headers.get("if-none-match")
    known = _versions(seen)
    if position is None and seen is not None and (known is None or found.version in known):
        return Response(status_code=304, headers={"ETag": tag})
    return json_response(resource(found, queue_position=position), headers={"ETag": tag})


@router.get(
    "/{request_id}/events", response_model=schemas.Timeline, responses=problems(401, 404), summary="Its timeline"
)
async def get_events(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """State, money, broker, callbacks and notifications in one list, oldest first."""
    await own(queries(request), request_id, principal)
    entries = await queries(request).timeline(request_id)
    return json_response({"items": [_entry(entry) for entry in entries]})


@router.post(
    "/{request_id}/select-sample",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Pick a sample and order the final",
)
async def select_sample(
    request_id: UUID,
    body: schemas.SelectSample,
    request: Request,
    principal: AnyCaller,
) -> Response:
    """Exactly one can be picked: the same again gives the same answer, another is a conflict."""
    caller = acting(request, principal, body)
    reply = await orchestrator(request).select_sample(
        request_id, body.selected_sample_id, caller, resolution=body.desired_resolution,
        file_format=body.output_format, quote_id=body.quote_id,
    )  # fmt: skip
    return reply_response(reply)


@router.post(
    "/{request_id}/regenerate-samples",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Ask for another round of samples",
)
async def regenerate_samples(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
    body: schemas.BriefChanges | None = None,
) -> Response:
    """The price of a sample set again; the words and the model may be changed."""
    caller = acting(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    return reply_response(await orchestrator(request).regenerate(request_id, caller, changes, quote_id))


@router.post(
    "/{request_id}/retry",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Start an ended request again",
)
async def retry(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
    body: schemas.BriefChanges | None = None,
) -> Response:
    """A new request with `retry_of`; an ended request itself never changes."""
    caller = acting(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    reply = await orchestrator(request).retry(
        request_id, caller, changes, correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope["aigen.traceparent"], quote_id=quote_id,
    )  # fmt: skip
    return reply_response(reply)


@router.post(
    "/{request_id}/cancel",
    response_model=schemas.Cancelled,
    responses=problems(401, 404, 409, 412, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="End a request early",
)
async def cancel(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
) -> Response:
    """What is held is given back; what was delivered stays charged. On an ended request nothing happens."""
    return reply_response(await orchestrator(request).cancel(request_id, acting(request, principal)))


async def own(reading: Queries, request_id: UUID, principal: Principal) -> GenerationRequest:
    """A request that the caller may see.

    Raises:
        NotFoundError: unknown, or somebody else's.
    """
    found = await reading.request(request_id)
    if found is None or principal.user_id not in {None, found.user_id}:
        raise errors.NotFoundError
    return found


def _submission(body: schemas.CreateRequest, request: Request, principal: Principal) -> Submission:
    return Submission(
        user_id=principal.acting_for(body.user_id), project_id=body.project_id, brief=body.brief(),
        metadata=body.metadata or {}, created_by=principal.name, correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope.get("aigen.traceparent"), quote_id=body.quote_id,
    )  # fmt: skip


def _versions(header: str | None) -> frozenset[int] | None:
    """The versions in an If-Match or If-None-Match header; None for `*`, which any version matches."""
    if header is None or header.strip() == "*":
        return None
    named = (part.strip().removeprefix("W/").strip('"') for part in header.split(",")[:20])
    return frozenset(int(tag) for tag in named if tag.isascii() and tag.isdigit() and len(tag) < 10)  # noqa: PLR2004


def _utc(name: str, moment: datetime | None) -> datetime | None:
    """A time of a query in UTC; without a zone, or at the end of days, it is refused."""
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


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "seq": entry["seq"], "at": entry["at"], "event": entry["event"], "status": entry["state"],
        "version": entry["version"], "data": entry["data"],
    }  # fmt: skip
