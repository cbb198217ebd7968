"""Operator endpoints of accounts: statements, grants, flags, holds in doubt, usage,
reconciliation.
"""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from creativeflow.services.aigeneration.api.auth import OPERATORS_ONLY, Operator
from creativeflow.services.aigeneration.api.dependencies import KEYED, HoldKey, key_claim
from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.routing import JsonRoute, problems
from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.accounts import CreditGrant
from creativeflow.services.aigeneration.application.usage_export import (
    UsageFormat,
    export,
    month_of,
)
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.storage.accounting import UsageFilter

router = APIRouter(
    prefix="/api/v1/operations",
    tags=["accounts"],
    route_class=JsonRoute,
    responses=problems(401, 403),
    dependencies=[OPERATORS_ONLY],
)

Most = Annotated[int, Query(ge=1, le=500)]


@router.post(
    "/credits/grants",
    status_code=201,
    responses=problems(404, 422),
    openapi_extra=KEYED,
    summary="Grant credits (local ledger)",
)
async def grant_credits(
    body: schemas.CreditGrantCreate, request: Request, operator: Operator
) -> Response:
    """Add credits to an account; a negative amount takes some back. Idempotent on `Idempotency-
    Key`.

    Only with the local ledger.
    """
    claim = key_claim(request, operator, body)
    gift = CreditGrant(
        user_id=body.user_id,
        amount=body.amount,
        reason=body.reason,
        plan=body.plan,
        status=body.status,
    )
    given = await services_of(request).accounts.grant(
        gift, f"{claim.principal}:{claim.key}" if claim else None
    )
    headers = None if given else {"Idempotent-Replayed": "true"}
    return json_response(await services_of(request).accounts.statement(body.user_id), 201, headers)


@router.get(
    "/users/{user_id}/statement",
    responses=problems(422, 503),
    summary="Get the credit statement of a user",
)
async def get_statement(user_id: schemas.Identifier, request: Request) -> Response:
    """Return plan, balance, holds, open flags, and every movement with its request and reason,
    newest first.
    """
    return json_response(await services_of(request).accounts.statement(user_id))


@router.post(
    "/users/{user_id}/clear", responses=problems(422), summary="Clear the flags of an account"
)
async def clear_flags(
    user_id: schemas.Identifier,
    body: schemas.ClearFlagsRequest,
    request: Request,
    operator: Operator,
) -> Response:
    """Clear all open flags of an account; operator and reason are recorded. Idempotent."""
    return json_response(
        {
            "cleared": await services_of(request).accounts.clear(
                user_id, by=operator.identity, note=body.note
            )
        }
    )


@router.get("/flags", summary="List flagged accounts")
async def list_flagged_accounts(request: Request, limit: Most = 100) -> Response:
    """Return accounts that are restricted because of a credit error or abuse, oldest first
    (REQ-016).
    """
    flags = services_of(request).account_flags
    return json_response({"items": await flags.open_flags(limit)})


@router.get("/holds/parked", summary="List holds in doubt")
async def list_parked_holds(request: Request, limit: Most = 100) -> Response:
    """Return holds whose charge the credit service cannot confirm; an operator decides them."""
    accounting = services_of(request).accounting
    found = await accounting.parked_holds(limit)
    return json_response(
        {"items": [hold | {"amount": credits_text(hold["amount"])} for hold in found]}
    )


@router.post(
    "/holds/{key}/decide", responses=problems(404, 422, 503), summary="Decide a hold in doubt"
)
async def decide_hold(
    key: HoldKey, body: schemas.HoldDecision, request: Request, operator: Operator
) -> Response:
    """Record whether the credit service charged a hold in doubt, and settle the hold accordingly.

    A hold that is not in doubt is left unchanged; messages parked for its key are replayed.
    """
    replayed = await services_of(request).accounts.decide(
        key, charged=body.charged, by=operator.identity
    )
    return json_response({"status": "decided", "messages_replayed": replayed})


@router.get(
    "/usage",
    responses=problems(422),
    summary="Export the usage log",
    response_class=StreamingResponse,
)
async def export_usage(
    request: Request,
    month: Annotated[str, Query(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-11"])],
    as_: Annotated[UsageFormat, Query(alias="format")] = UsageFormat.CSV,
    user_id: schemas.Identifier | None = None,
    project_id: schemas.Identifier | None = None,
) -> Response:
    """Return one row per chargeable action of a month (UTC), however it was paid."""
    accounting = services_of(request).accounting
    since, until = month_of(month)
    rows = accounting.usage(
        UsageFilter(since=since, until=until, user_id=user_id, project_id=project_id)
    )
    headers = {"Content-Disposition": f'attachment; filename="usage-{month}.{as_}"'}
    return StreamingResponse(export(rows, as_), headers=headers, media_type=as_.media_type)


@router.post("/reconcile", responses=problems(422), summary="Reconcile with the credit service")
async def reconcile_credits(
    body: schemas.ReconcileRequest, request: Request, operator: Operator
) -> Response:
    """Report every difference from the credit service; with `apply`, post missing captures and
    releases.
    """
    reconciliation = services_of(request).reconciliation
    since = services_of(request).now() - timedelta(hours=body.hours)
    return json_response(await reconciliation.run(since, apply=body.apply, by=operator.identity))
