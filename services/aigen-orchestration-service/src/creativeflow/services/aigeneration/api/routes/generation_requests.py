"""Endpoints of generation requests: create, quote, list, follow, select, regenerate, retry,
cancel.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.datastructures import URL
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
    to_utc,
)
from creativeflow.services.aigeneration.api.pagination import read_cursor, write_cursor
from creativeflow.services.aigeneration.api.responses import etag, json_response, reply_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.generations import Submission
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.representation import to_public_data, to_resource
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
    summary="Create a generation request",
)
async def create_generation(
    body: schemas.CreateRequest, request: Request, principal: AnyCaller
) -> Response:
    """Check the plan and the credits, hold the price of the samples, and queue the job.

    Nothing is charged before samples are delivered. Idempotent on `Idempotency-Key`.
    """
    order = _submission(body, request, principal)
    return reply_response(
        await services_of(request).generations.submit(order, key_claim(request, principal, body))
    )


@router.post(
    "/quote",
    response_model=schemas.Quote,
    responses=problems(401, 403, 422, 503),
    summary="Quote a generation request",
)
async def quote_generation(
    body: schemas.CreateRequest, request: Request, principal: AnyCaller
) -> Response:
    """Return the prices of a create with the same body, what pays for them, and the balance after
    it.

    Starts nothing. The `quote_id` binds the prices until `expires_at`.
    """
    order = _submission(body, request, principal)
    return json_response(await services_of(request).generations.quote(order.user_id, order.brief))


@router.get(
    "",
    response_model=schemas.Page,
    responses=problems(401, 422),
    summary="List generation requests",
)
async def list_generations(
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
    """Return requests, newest first, in pages.

    Users see their own; a service sees all, or those of the user it names.
    """
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
    found = await services_of(request).queries.page(filters, limit + 1)
    items, following = (
        found[:limit],
        write_cursor(found[limit - 1].id) if len(found) > limit else None,
    )
    headers = {"Link": f'<{_page_url(request, following)}>; rel="next"'} if following else None
    return json_response(
        {"items": [to_resource(item) for item in items], "next": following}, headers=headers
    )


@router.get(
    "/{request_id}",
    response_model=schemas.GenerationRequest,
    responses=problems(401, 404)
    | {304: {"description": "Not changed since the version in If-None-Match"}},
    summary="Get a generation request",
)
async def get_generation(request_id: UUID, request: Request, principal: AnyCaller) -> Response:
    """Return the state, the cost and the available actions."""
    found = await get_owned_request(services_of(request).queries, request_id, principal)
    position = await services_of(request).queries.queue_position(found)
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
    summary="List the events of a generation request",
)
async def list_generation_events(
    request_id: UUID, request: Request, principal: AnyCaller
) -> Response:
    """Return the timeline: transitions, credits, broker, callbacks and notifications, oldest
    first. Who acted, notes and technical reasons are for operators only.
    """
    await get_owned_request(services_of(request).queries, request_id, principal)
    entries = await services_of(request).queries.timeline(request_id)
    return json_response({"items": [_entry(entry, principal) for entry in entries]})


@router.post(
    "/{request_id}/select-sample",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Select a sample and order the final",
)
async def select_sample(
    request_id: UUID, body: schemas.SelectSample, request: Request, principal: AnyCaller
) -> Response:
    """Select exactly one sample; the same selection again returns the same response, another one is
    a conflict.
    """
    caller = build_caller(request, principal, body)
    reply = await services_of(request).generations.select_sample(
        request_id, body.choice(), caller, quote_id=body.quote_id
    )
    return reply_response(reply)


@router.post(
    "/{request_id}/regenerate-samples",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Regenerate the samples",
)
async def regenerate_samples(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
    body: schemas.BriefChanges | None = None,
) -> Response:
    """Order another round of samples at the price of a sample set; prompt and model may change."""
    caller = build_caller(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    return reply_response(
        await services_of(request).generations.regenerate(request_id, caller, changes, quote_id)
    )


@router.post(
    "/{request_id}/retry",
    status_code=202,
    response_model=schemas.GenerationRequest,
    responses=problems(401, 402, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Retry a generation request",
)
async def retry_generation(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
    body: schemas.BriefChanges | None = None,
) -> Response:
    """Create a new request with `retry_of` from one that ended without its result.

    The ended request does not change.
    """
    caller = build_caller(request, principal, body)
    changes, quote_id = (body.changes(), body.quote_id) if body else ({}, None)
    reply = await services_of(request).generations.retry(
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
    responses=problems(401, 403, 404, 409, 412, 422, 503),
    openapi_extra=KEYED_AND_MATCHED,
    summary="Cancel a generation request",
)
async def cancel_generation(
    request_id: UUID,
    request: Request,
    principal: AnyCaller,
    body: schemas.CancelRequest | None = None,
) -> Response:
    """Release the open hold and end the request; delivered samples stay charged.

    An ended request is left unchanged.
    """
    caller = build_caller(request, principal, body)
    return reply_response(await services_of(request).generations.cancel(request_id, caller))


def _submission(body: schemas.CreateRequest, request: Request, principal: Principal) -> Submission:
    return Submission(
        user_id=principal.acting_for(body.user_id),
        project_id=body.project_id,
        brief=body.brief(),
        metadata=body.metadata or {},
        created_by=principal.identity,
        correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope.get("aigen.traceparent"),
        quote_id=body.quote_id,
    )


def _page_url(request: Request, cursor: str) -> URL:
    """Return the address of the page after this cursor, under the public URL."""
    url = request.url.include_query_params(cursor=cursor)
    public_url = services_of(request).settings.public_url
    return URL(f"{public_url.rstrip('/')}{url.path}?{url.query}") if public_url else url


def _entry(entry: dict[str, Any], principal: Principal) -> dict[str, Any]:
    data = entry["data"]
    if not principal.operator:
        data = to_public_data(entry["event"], data, principal.identity)
    return {
        "seq": entry["seq"],
        "at": entry["at"],
        "event": entry["event"],
        "status": entry["state"],
        "version": entry["version"],
        "data": data,
    }
