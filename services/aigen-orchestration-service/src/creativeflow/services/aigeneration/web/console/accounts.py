"""Accounts for an operator: what a user has, what was booked, flags to lift, credits to grant, the
books compared.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import accounts, queries
from creativeflow.services.aigeneration.api.schemas.generations import (
    ClearFlagsRequest,
    CreditGrantCreate,
    Identifier,
    ReconcileRequest,
)
from creativeflow.services.aigeneration.application.accounts import CreditGrant
from creativeflow.services.aigeneration.application.reconciliation import Reconciliation
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.pricing import PLANS, SubscriptionStatus
from creativeflow.services.aigeneration.domain.runbook import DIFFERENCES, FLAGS
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import Form, OperatorVisitor, Visitor
from creativeflow.services.aigeneration.web.console.page import console_page, run_action
from creativeflow.services.aigeneration.web.console.requests import cost
from creativeflow.services.aigeneration.web.error_pages import ErrorText, error_text
from creativeflow.services.aigeneration.web.forms import FormFields, checked, claim
from creativeflow.services.aigeneration.web.templating import pages_router, see_other

PATH = "/console/accounts"
PER_PAGE = 25
_RECENT = 6
_MOST = 100

router = pages_router(PATH)


@router.get("")
async def overview_of_accounts(
    request: Request, visitor: OperatorVisitor, user: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """A way to an account, the flagged ones, and what the last comparison of the books found."""
    if user.strip():
        return see_other(_path(user.strip()))
    return await _show_all(request, visitor)


@router.post("/reconcile")
async def reconcile(request: Request, visitor: OperatorVisitor, form: Form) -> Response:
    """Compare the books; only when told so, post what was decided and never arrived."""
    reconciliation: Reconciliation = request.app.state.reconciliation

    async def act() -> object:
        hours = form.get("hours")
        said = {
            "hours": int(hours) if hours.isascii() and hours.isdigit() else hours,
            "apply": bool(form.get("apply")),
        }
        body = checked(ReconcileRequest, said)
        since = request.app.state.now() - timedelta(hours=body.hours)
        return await reconciliation.run(since, apply=body.apply, by=visitor.principal.name)

    async def show(status: int, words: ErrorText) -> Response:
        return await _show_all(request, visitor, status, words)

    return await run_action(request, form, show, act, done="compared", fallback=PATH)


@router.post("/{user_id:path}/grant")
async def grant(
    user_id: Identifier, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Give credits, or take some back; the same form again gives nothing twice."""

    async def act() -> object:
        said = {
            "amount": form.get("amount"),
            "reason": form.get("reason") or None,
            "plan": form.get("plan") or None,
        }
        body = checked(
            CreditGrantCreate, {"user_id": user_id, "status": form.get("status") or None, **said}
        )
        gift = CreditGrant(
            user_id=user_id,
            amount=body.amount,
            reason=body.reason,
            plan=body.plan,
            status=body.status,
        )
        claimed = claim(request, visitor.principal, form.get("key"), {})
        await accounts(request).grant(gift, f"{claimed.principal}:{claimed.key}")
        return None

    return await _do(request, visitor, form, user_id, act, "granted")


@router.post("/{user_id:path}/clear")
async def clear(
    user_id: Identifier, request: Request, visitor: OperatorVisitor, form: Form
) -> Response:
    """Lift the restriction."""

    async def act() -> bool:
        note = checked(ClearFlagsRequest, {"note": form.get("note")}).note
        return bool(await accounts(request).clear(user_id, by=visitor.principal.name, note=note))

    return await _do(request, visitor, form, user_id, act, "cleared")


@router.get("/{user_id:path}")
async def account(
    user_id: Identifier,
    request: Request,
    visitor: OperatorVisitor,
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> Response:
    """Everything about one account."""
    return await _show(request, visitor, user_id, page=page)


async def _do(
    request: Request,
    visitor: Visitor,
    form: FormFields,
    user_id: str,
    act: Callable[[], Awaitable[Any]],
    done: str,
) -> Response:
    async def show(status: int, words: ErrorText) -> Response:
        return await _show(request, visitor, user_id, status, words)

    return await run_action(request, form, show, act, done=done, fallback=_path(user_id))


async def _show_all(
    request: Request, visitor: Visitor, status: int = 200, refusal: ErrorText | None = None
) -> Response:
    flags: AccountFlags = request.app.state.flags
    reconciliation: Reconciliation = request.app.state.reconciliation
    return await console_page(
        request,
        visitor,
        "console/accounts.html",
        status,
        refusal=refusal,
        flags=await flags.open_flags(_MOST),
        flag_words=FLAGS,
        report=await reconciliation.last(),
        differences=DIFFERENCES,
        account_path=_path,
    )


async def _show(
    request: Request,
    visitor: Visitor,
    user_id: str,
    status: int = 200,
    refusal: ErrorText | None = None,
    page: int = 1,
) -> Response:
    books: Accounting = request.app.state.books
    now = request.app.state.now()
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    statement, unknown = await _statement(request, user_id, page)
    return await console_page(
        request,
        visitor,
        "console/account.html",
        status,
        refusal=refusal,
        user_id=user_id,
        unknown=unknown,
        statement=statement,
        entries=statement["entries"][:PER_PAGE],
        page=page,
        path=_path(user_id),
        more=len(statement["entries"]) > PER_PAGE,
        holds=await books.open_holds(user_id, _MOST),
        month=month,
        used=await books.used(user_id, month),
        free_used=await queries(request).free_used(user_id, now),
        free_most=request.app.state.policy.free_generations,
        plans=PLANS,
        statuses=SubscriptionStatus,
        recent=await queries(request).page(Filters(user_id=user_id), _RECENT),
        cost=cost,
        flag_words=FLAGS,
        kept_here=accounts(request).kept_here,
    )


async def _statement(
    request: Request, user_id: str, page: int
) -> tuple[dict[str, Any], ErrorText | None]:
    """The statement; while the credit service is away, what is known here."""
    try:
        return await accounts(request).statement(user_id, PER_PAGE + 1, (page - 1) * PER_PAGE), None
    except errors.CreditsUnavailableError as error:
        flags: AccountFlags = request.app.state.flags
        known: dict[str, Any] = {
            "plan": None,
            "balance": None,
            "held": None,
            "restricted": False,
            "entries": [],
        }
        return known | {"flags": await flags.open_flags(_MOST, user_id)}, error_text(request, error)


def _path(user_id: str) -> str:
    return f"{PATH}/{quote(user_id, safe='')}"
