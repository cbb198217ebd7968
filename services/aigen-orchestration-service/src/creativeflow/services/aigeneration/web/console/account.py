"""One account: plan, balance, statement, holds and usage; grant credits and clear flags."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.schemas.generations import (
    ClearFlagsRequest,
    CreditGrantCreate,
    Identifier,
)
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.accounts import CreditGrant
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.pricing import PLANS, SubscriptionStatus
from creativeflow.services.aigeneration.domain.runbook import FLAGS
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.accounts import (
    FLAGS_MAX,
    PATH,
    build_account_path,
)
from creativeflow.services.aigeneration.web.console.page import render_console_page, run_action
from creativeflow.services.aigeneration.web.console.requests import format_cost
from creativeflow.services.aigeneration.web.error_pages import ErrorText, get_error_text
from creativeflow.services.aigeneration.web.forms import FormFields, build_claim, validate_form
from creativeflow.services.aigeneration.web.templating import create_page_router

PAGE_SIZE = 25
HOLDS_MAX = 100
RECENT_MAX = 6

router = create_page_router(PATH)


@router.post("/{user_id:path}/grant")
async def grant_credits(
    user_id: Identifier, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Grant credits, or remove some with a negative amount; idempotent for one rendered form."""

    async def act() -> None:
        fields = {
            "user_id": user_id,
            "amount": form.get("amount"),
            "reason": form.get("reason") or None,
            "plan": form.get("plan") or None,
            "status": form.get("status") or None,
        }
        body = validate_form(CreditGrantCreate, fields)
        grant = CreditGrant(
            user_id=user_id,
            amount=body.amount,
            reason=body.reason,
            plan=body.plan,
            status=body.status,
        )
        claim = build_claim(request, visitor.principal, form.get("key"), {})
        await services_of(request).accounts.grant(grant, f"{claim.principal}:{claim.key}")

    return await _run(request, visitor, form, user_id, act, "granted")


@router.post("/{user_id:path}/clear")
async def clear_flags(
    user_id: Identifier, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Clear all flags of the account, which lifts its restriction (REQ-016)."""

    async def act() -> bool:
        note = validate_form(ClearFlagsRequest, {"note": form.get("note")}).note
        return bool(
            await services_of(request).accounts.clear(
                user_id, by=visitor.principal.identity, note=note
            )
        )

    return await _run(request, visitor, form, user_id, act, "cleared")


@router.get("/{user_id:path}")
async def show_account(
    user_id: Identifier,
    request: Request,
    visitor: OperatorVisitor,
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> Response:
    """Show the account and one page of its statement."""
    return await _show(request, visitor, user_id, page=page)


async def _run(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    user_id: str,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, refusal: ErrorText) -> Response:
        return await _show(request, visitor, user_id, status, refusal)

    path = build_account_path(user_id)
    return await run_action(request, form, show, act, done=done, fallback=path)


async def _show(
    request: Request,
    visitor: Visitor,
    user_id: str,
    status: int = 200,
    refusal: ErrorText | None = None,
    page: int = 1,
) -> Response:
    accounting = services_of(request).accounting
    now = services_of(request).now()
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    statement, unavailable = await _load_statement(request, user_id, page)
    return await render_console_page(
        request,
        visitor,
        "console/account.html",
        status,
        refusal=refusal,
        user_id=user_id,
        unavailable=unavailable,
        statement=statement,
        entries=statement["entries"][:PAGE_SIZE],
        page=page,
        path=build_account_path(user_id),
        more=len(statement["entries"]) > PAGE_SIZE,
        holds=await accounting.open_holds(user_id, HOLDS_MAX),
        month=month,
        usage=await accounting.used(user_id, month),
        free_used=await services_of(request).queries.free_used(user_id, now),
        free_max=services_of(request).policy.free_generations,
        plans=PLANS,
        statuses=SubscriptionStatus,
        recent=await services_of(request).queries.page(Filters(user_id=user_id), RECENT_MAX),
        format_cost=format_cost,
        flag_explanations=FLAGS,
        ledger_is_local=services_of(request).accounts.kept_here,
    )


async def _load_statement(
    request: Request, user_id: str, page: int
) -> tuple[dict[str, Any], ErrorText | None]:
    """Load the statement; while the credit service is down, only the local flags and the error."""
    try:
        statement = await services_of(request).accounts.statement(
            user_id, PAGE_SIZE + 1, (page - 1) * PAGE_SIZE
        )
    except errors.CreditsUnavailableError as error:
        flags = services_of(request).account_flags
        known: dict[str, Any] = {
            "plan": None,
            "balance": None,
            "held": None,
            "restricted": False,
            "entries": [],
            "flags": await flags.open_flags(FLAGS_MAX, user_id),
        }
        return known, get_error_text(request, error)
    return statement, None
