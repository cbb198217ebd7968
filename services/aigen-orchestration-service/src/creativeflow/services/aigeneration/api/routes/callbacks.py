"""Callbacks of workers: reports and uploads."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import LeanRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.worker_reports import (
    MODELS,
    ErrorReport,
    FinalReport,
    ProgressReport,
    ReportKind,
    SamplesReport,
    Signature,
    WorkerReport,
)
from creativeflow.services.aigeneration.domain import errors

router = APIRouter(prefix="/api/v1/n8n-callbacks", tags=["callbacks"], route_class=LeanRoute)
UPLOADS = f"{router.prefix}/assets"
"""The paths of uploads, which accept larger bodies."""

SECURED: dict[str, object] = {"security": [{"callbackToken": []}, {"webhookSignature": []}]}
_PICTURE: dict[str, object] = {
    "content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")},
    "required": True,
}


def _described(kind: ReportKind) -> dict[str, object]:
    """Return the schema of a body for the API description; the endpoint reads bytes, for the
    signature.
    """
    reference = {"$ref": f"#/components/schemas/{MODELS[kind].__name__}"}
    return SECURED | {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }


async def _receive(kind: ReportKind, request: Request) -> Response:
    reports = services_of(request).worker_reports
    await reports.receive(
        kind, await request.body(), token=_token(request), signature=_signature(request)
    )
    return json_response({"status": "received"})


_ANSWERS = problems(401, 404, 409, 413, 422, 503)


@router.post(
    "/started",
    response_model=schemas.Received,
    responses=_ANSWERS,
    openapi_extra=_described(ReportKind.STARTED),
    summary="Report the start of a job",
)
async def report_started(request: Request) -> Response:
    """Record that a worker has started. 409 means that the request no longer waits for this job:
    stop without another report.
    """
    return await _receive(ReportKind.STARTED, request)


@router.post(
    "/progress",
    response_model=schemas.Received,
    responses=_ANSWERS,
    openapi_extra=_described(ReportKind.PROGRESS),
    summary="Report progress",
)
async def report_progress(request: Request) -> Response:
    """Report progress; finished samples may be included, and become visible but not selectable."""
    return await _receive(ReportKind.PROGRESS, request)


@router.post(
    "/sample-result",
    response_model=schemas.Received,
    responses=_ANSWERS,
    openapi_extra=_described(ReportKind.SAMPLES),
    summary="Report samples",
)
async def report_samples(request: Request) -> Response:
    """Deliver the valid samples and list the failed ones. Idempotent."""
    return await _receive(ReportKind.SAMPLES, request)


@router.post(
    "/final-result",
    response_model=schemas.Received,
    responses=_ANSWERS,
    openapi_extra=_described(ReportKind.FINAL),
    summary="Report the final",
)
async def report_final(request: Request) -> Response:
    """Deliver the final; size and format must be as ordered. Idempotent."""
    return await _receive(ReportKind.FINAL, request)


@router.post(
    "/error",
    response_model=schemas.Received,
    responses=_ANSWERS,
    openapi_extra=_described(ReportKind.ERROR),
    summary="Report a failed job",
)
async def report_error(request: Request) -> Response:
    """Fail the attempt. The error code decides about another attempt and the charge; see
    docs/lifecycle.md.
    """
    return await _receive(ReportKind.ERROR, request)


@router.post(
    "/assets",
    status_code=201,
    response_model=schemas.Uploaded,
    responses=problems(401, 409, 413, 415, 422),
    openapi_extra=SECURED | {"requestBody": _PICTURE},
    summary="Upload a picture",
)
async def upload_asset(request: Request, job_id: Annotated[UUID, Query()]) -> Response:
    """Store a picture for a worker; include the fields of the response in the result.

    The picture is decoded first; a damaged, animated or too large one is rejected.
    """
    reports = services_of(request).worker_reports
    await reports.check_upload(job_id, _token(request))
    if not request.headers.get("content-type", "").startswith("image/"):
        raise errors.UnsupportedMediaTypeError(expected="image/png, image/jpeg or image/webp")
    asset = await services_of(request).save_upload(job_id, request.stream())
    return json_response(asset, 201)


def _token(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token else None


def _signature(request: Request) -> Signature | None:
    found = [request.headers.get(f"webhook-{part}") for part in ("id", "timestamp", "signature")]
    if any(part is None for part in found):
        return None
    return Signature(message_id=found[0] or "", timestamp=found[1] or "", signatures=found[2] or "")


DESCRIBED: tuple[type[WorkerReport], ...] = (
    WorkerReport,
    ProgressReport,
    SamplesReport,
    FinalReport,
    ErrorReport,
)
"""Schemas of bodies that the endpoints read as bytes."""
