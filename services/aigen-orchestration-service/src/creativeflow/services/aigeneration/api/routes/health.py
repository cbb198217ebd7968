"""Liveness, readiness and metrics."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import FileResponse, Response

from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors

router = APIRouter(tags=["health"])


@router.get("/health", summary="Liveness")
async def get_health(request: Request) -> Response:
    """Return 200 while the process responds; checks no dependency."""
    return json_response({"status": "ok", "version": request.app.version})


@router.get(
    "/ready",
    summary="Readiness",
    responses={503: {"description": "A dependency is missing; operators see which"}},
)
async def get_readiness(request: Request) -> Response:
    """Return 503 while the database is not writable, and to operators the status of each
    dependency.

    Without the broker requests are still accepted; their jobs wait in the database.
    """
    checks = await services_of(request).checks()
    usable = all(check["ok"] for check in checks.values() if check["required"])
    details = {"checks": checks} if await _is_operator(request) else {}
    status = "ready" if usable else "not_ready"
    return json_response({"status": status, **details}, 200 if usable else 503)


async def _is_operator(request: Request) -> bool:
    """Return whether the caller is an operator; the state is shown to everyone."""
    try:
        return (await services_of(request).authenticator.admit(request)).operator
    except errors.AigenError:
        return False


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Return the metrics in the text format of Prometheus."""
    await services_of(request).refresh_gauges()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/assets/{name}", summary="A picture kept here", include_in_schema=False)
async def asset(name: str, request: Request) -> Response:
    """Return a stored picture; names are unguessable, so knowing one grants access."""
    path = services_of(request).assets.path(name)
    if path is None:
        raise errors.NotFoundError
    return FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})
