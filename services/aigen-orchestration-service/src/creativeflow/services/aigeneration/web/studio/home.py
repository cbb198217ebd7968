"""The studio's first page: saying what is wanted, seeing what it costs, and asking for it."""

import secrets
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import (
    get_owned_request,
    orchestrator,
    queries,
)
from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import PROMPT_MAX, CreateRequest
from creativeflow.services.aigeneration.application.generations import Submission
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import CUSTOM, SIDE_MAX, SIDE_MIN
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import Model, Routing
from creativeflow.services.aigeneration.domain.pricing import FREE, credits_text
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor, Visitor
from creativeflow.services.aigeneration.web.error_pages import error_text
from creativeflow.services.aigeneration.web.forms import as_seen, claim
from creativeflow.services.aigeneration.web.studio.account import UserAccount, account_of, forget
from creativeflow.services.aigeneration.web.studio.choices import FORMATS_SHOWN, INDUSTRIES, TONES
from creativeflow.services.aigeneration.web.studio.drafts import DETAILS, TEXTS, Draft, by_field
from creativeflow.services.aigeneration.web.studio.presenter import price, status_text, thumbnail
from creativeflow.services.aigeneration.web.studio.reference_images import previews
from creativeflow.services.aigeneration.web.templating import PART, page, pages_router, see_other

RECENT = 6

router = pages_router("/studio")


@router.get("")
async def studio(
    request: Request,
    visitor: StudioVisitor,
    origin: Annotated[UUID | None, Query(alias="from")] = None,
) -> Response:
    """An empty form, one that a link has begun, or one with what an earlier request asked for."""
    draft = Draft.of_link(request.query_params)
    if origin is not None:
        found = await get_owned_request(queries(request), origin, visitor.principal)
        draft = Draft.of_brief(found.brief, found.project_id)
    return await _ask(request, visitor, draft)


@router.post("/quote")
async def quote(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """The form again with the price of what it says now; a script takes the price alone."""
    draft = Draft.of_form(form)
    if PART not in request.headers:
        return await _ask(request, visitor, draft)
    account = await account_of(request, visitor.session.user_id)
    return page(
        request, "studio/new.html", account=account, **await _priced(request, visitor, draft)
    )


@router.post("/requests")
async def create(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """Ask for it; what is refused is told at the form, with everything that was typed still in
    it.
    """
    draft, principal = Draft.of_form(form), visitor.principal
    try:
        order = _submission(request, visitor, draft.checked(), form.get("quote_id") or None)
        reply = await orchestrator(request).submit(
            order, claim(request, principal, form.get("key"), draft.asked())
        )
        location = reply_response(reply).headers["location"]
    except errors.AigenError as error:
        return await _ask(request, visitor, draft, as_seen(error))
    finally:
        forget(request, visitor.session.user_id)
    return see_other(f"/studio/requests/{location.rpartition('/')[2]}")


async def _ask(
    request: Request, visitor: Visitor, draft: Draft, refused: errors.AigenError | None = None
) -> Response:
    account = await account_of(request, visitor.session.user_id)
    recent = await queries(request).page(Filters(user_id=visitor.session.user_id), RECENT)
    faults = by_field(refused) if isinstance(refused, errors.InvalidRequestError) else {}
    return page(
        request,
        "studio/new.html",
        refused.status if refused else 200,
        draft=draft,
        account=account,
        faults=faults,
        unfolded=draft.elaborate or not faults.keys().isdisjoint(DETAILS),
        elsewhere=[message for name, message in faults.items() if name not in TEXTS],
        refusal=error_text(request, refused) if refused else None,
        refused=refused.code if refused else "",
        key=secrets.token_urlsafe(18),
        formats=FORMATS_SHOWN,
        custom=CUSTOM,
        side_min=SIDE_MIN,
        side_max=SIDE_MAX,
        prompt_max=PROMPT_MAX,
        tones=TONES,
        industries=INDUSTRIES,
        models=_models(request, account),
        credits_text=credits_text,
        references=previews(request, draft.references),
        upload_limit=request.app.state.settings.web_upload_bytes,
        recent=recent,
        told=status_text,
        thumbnail=thumbnail,
        **await _priced(request, visitor, draft),
    )


async def _priced(request: Request, visitor: Visitor, draft: Draft) -> dict[str, Any]:
    """The quote of what is asked, or why there is none."""
    try:
        found = await orchestrator(request).quote(visitor.session.user_id, draft.priced())
    except errors.InvalidRequestError as error:
        return {"quote": None, "unpriced": " ".join(by_field(error).values()), "price": price}
    except errors.AigenError as error:
        words = error_text(request, error)
        return {"quote": None, "unpriced": f"{words.title}. {words.sentence}", "price": price}
    return {"quote": found, "unpriced": "", "price": price}


def _models(request: Request, account: UserAccount) -> list[Model]:
    """What can be chosen where there is a choice; on the Free plan until the plan is known."""
    routing: Routing = request.app.state.routing()
    offered = routing.offered(Stage.SAMPLES, account.plan or FREE)
    return offered if len(offered) > 1 else []


def _submission(
    request: Request, visitor: Visitor, body: CreateRequest, quote_id: str | None
) -> Submission:
    return Submission(
        user_id=visitor.session.user_id,
        project_id=body.project_id,
        brief=body.brief(),
        metadata={},
        created_by=visitor.principal.name,
        correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope.get("aigen.traceparent"),
        quote_id=quote_id,
    )
