"""Alive, ready, measured: what load balancers, operators and Prometheus ask."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import FileResponse, Response

from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.domain import errors

router = APIRouter(tags=["health"])


@router.get("/health", summary="Alive")
async def health(request: Request) -> Response:
    """200 as long as the process answers; asks nobody else."""
    return json_response({"status": "ok", "version": request.app.version})


@router.get(
    "/ready",
    summary="Ready",
    responses={503: {"description": "A dependency is missing; the body says which"}},
)
async def ready(request: Request) -> Response:
    """Each dependency with its reason. 503 while the database is away: nothing can be taken then.

    Without the broker requests are still taken; their jobs wait in the fair queue.
    """
    checks = await request.app.state.checks()
    usable = all(check["ok"] for check in checks.values() if check["required"])
    return json_response(
        {"status": "ready" if usable else "not_ready", "checks": checks}, 200 if usable else 503
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    await request.app.state.refresh_gauges()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/assets/{name}", summary="A picture kept here", include_in_schema=False)
async def asset(name: str, request: Request) -> Response:
    """Names cannot be guessed: who knows one may see it."""
    path = request.app.state.assets.path(name)
    if path is None:
        raise errors.NotFoundError
    return FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})
