"""The accounts page: find an account, flagged accounts, and the reconciliation of holds."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.schemas.generations import ReconcileRequest
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.runbook import DIFFERENCES, FLAGS
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.page import render_console_page, run_action
from creativeflow.services.aigeneration.web.error_pages import ErrorText
from creativeflow.services.aigeneration.web.forms import validate_form
from creativeflow.services.aigeneration.web.templating import create_page_router, redirect_to

PATH = "/console/accounts"
FLAGS_MAX = 100

router = create_page_router(PATH)


@router.get("")
async def show_accounts(
    request: Request, visitor: OperatorVisitor, user: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Show flagged accounts and the last reconciliation; a user id redirects to its account."""
    if user.strip():
        return redirect_to(build_account_path(user.strip()))
    return await _show(request, visitor)


@router.post("/reconcile")
async def reconcile(request: Request, visitor: OperatorVisitor, form: Form) -> Response:
    """Compare holds with the credit service; with `apply`, post missing captures and releases."""
    reconciliation = services_of(request).reconciliation

    async def act() -> object:
        hours = form.get("hours")
        fields = {
            "hours": int(hours) if hours.isascii() and hours.isdigit() else hours,
            "apply": bool(form.get("apply")),
        }
        body = validate_form(ReconcileRequest, fields)
        since = services_of(request).now() - timedelta(hours=body.hours)
        return await reconciliation.run(since, apply=body.apply, by=visitor.principal.identity)

    async def show(status: int, refusal: ErrorText) -> Response:
        return await _show(request, visitor, status, refusal)

    return await run_action(request, form, show, act, done="compared", fallback=PATH)


def build_account_path(user_id: str) -> str:
    """Build the path of an account's page."""
    return f"{PATH}/{quote(user_id, safe='')}"


async def _show(
    request: Request, visitor: Visitor, status: int = 200, refusal: ErrorText | None = None
) -> Response:
    flags = services_of(request).account_flags
    reconciliation = services_of(request).reconciliation
    return await render_console_page(
        request,
        visitor,
        "console/accounts.html",
        status,
        refusal=refusal,
        flags=await flags.open_flags(FLAGS_MAX),
        flag_explanations=FLAGS,
        report=await reconciliation.last(),
        difference_explanations=DIFFERENCES,
        account_path=build_account_path,
    )
