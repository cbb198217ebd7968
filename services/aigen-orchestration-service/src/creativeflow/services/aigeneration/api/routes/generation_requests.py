"""Starting, following and steering generation requests."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import AnyCaller, Principal
from creativeflow.services.aigeneration.api.dependencies import (
    KEYED,
    KEYED_AND_MATCHED,
    PAGE_MAX,
    build_caller,
    get_owned_request,
    header_versions,
    key_claim,
    orchestrator,
    queries,
    to_utc,
)
from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.api.responses import etag, json_response, reply_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.application.generations import Submission
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.storage.queries import Filters

router = APIRouter(
    prefix="/api/v1/generation-requests", tags=["generation requests"], route_class=JsonRoute
)


@router.post(
    "",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 409, 413, 422, 429, 503),
    openapi_extra=KEYED,
    summary="Start a generation",
)
async def create(body: schemas.CreateRequest, request: Request, principal: AnyCaller) -> Response:
    """Check plan and credits, hold what it costs, and queue the job. Nothing is charged before
    samples come.
    """
    order = _submission(body, request, principal)
    return reply_response(
        await orchestrator(request).submit(order, key_claim(request, principal, body))
    )


@router.post(
    "/quote",
    response_model=schemas.Quote,
    responses=problems(401, 403, 422, 503),
    summary="What it would cost",
)
async def quote(body: schemas.CreateRequest, request: Request, principal: AnyCaller) -> Response:
    """The same body as for a start: every price, what pays for it, and what it would leave. Starts
    nothing.
    """
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
        user_id=principal.user_id or user_id,
        project_id=project_id,
        states=status or (),
        created_from=to_utc("created_from", created_from),
        created_to=to_utc("created_to", created_to),
        before=read_cursor(cursor),
    )
    if principal.user_id is not None and user_id not in {None, principal.user_id}:
        return json_response({"items": [], "next": None})
    found = await queries(request).page(filters, limit + 1)
    items, following = (
        found[:limit],
        write_cursor(found[limit - 1].id) if len(found) > limit else None,
    )
    headers = (
        {"Link": f'<{request.url.include_query_params(cursor=following)}>; rel="next"'}
        if following
        else None
    )
    return json_response(
        {"items": [to_resource(item) for item in items], "next": following}, headers=headers
    )


@router.get(
    "/{request_id}",
    response_model=schemas.GenerationRequest,
    responses=problems(401, 404)
    | {304: {"description": "Not changed since the version in If-None-Match"}},
    summary="One request",
)
async def get_request(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """Where it stands, what it cost, and what can be done now."""
    found = await get_owned_request(queries(request), request_id, principal)
    position = await queries(request).queue_position(found)
    tag = etag(found.version)
    seen = request.headers.get("if-none-match")
    known = header_versions(seen)
    if position is None and seen is not None and (known is None or found.version in known):
        return Response(status_code=304, headers={"ETag": tag})
    return json_response(to_resource(found, queue_position=position), headers={"ETag": tag})


@router.get(
    "/{request_id}/events",
    response_model=schemas.Timeline,
    responses=problems(401, 404),
    summary="Its timeline",
)
async def get_events(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """State, money, broker, callbacks and notifications in one list, oldest first."""
    await get_owned_request(queries(request), request_id, principal)
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
    request_id: UUID, body: schemas.SelectSample, request: Request, principal: AnyCaller
) -> Response:
    """Exactly one can be picked: the same again gives the same answer, another is a conflict."""
    caller = build_caller(request, principal, body)
    reply = await orchestrator(request).select_sample(
        request_id, body.choice(), caller, quote_id=body.quote_id
    )
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
    caller = build_caller(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    return reply_response(
        await orchestrator(request).regenerate(request_id, caller, changes, quote_id)
    )


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
    caller = build_caller(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    reply = await orchestrator(request).retry(
        request_id,
        caller,
        changes,
        correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope["aigen.traceparent"],
        quote_id=quote_id,
    )
    return reply_response(reply)


@router.post(
    "/{request_id}/cancel",
    response_model=schemas.Cancelled,
    responses=problems(401, 404, 409, 412, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="End a request early",
)
async def cancel(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """What is held is given back; what was delivered stays charged. On an ended request nothing
    happens.
    """
    return reply_response(
        await orchestrator(request).cancel(request_id, build_caller(request, principal))
    )


def _submission(body: schemas.CreateRequest, request: Request, principal: Principal) -> Submission:
    return Submission(
        user_id=principal.acting_for(body.user_id),
        project_id=body.project_id,
        brief=body.brief(),
        metadata=body.metadata or {},
        created_by=principal.name,
        correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope.get("aigen.traceparent"),
        quote_id=body.quote_id,
    )


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "seq": entry["seq"],
        "at": entry["at"],
        "event": entry["event"],
        "status": entry["state"],
        "version": entry["version"],
        "data": entry["data"],
    }
