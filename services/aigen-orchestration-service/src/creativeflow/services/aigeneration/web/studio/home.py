"""The studio's first page: enter a brief, see its price and submit it."""

import secrets
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import get_owned_request
from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import PROMPT_MAX, CreateRequest
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.generations import Submission
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import CUSTOM, SIDE_MAX, SIDE_MIN
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.model_routing import Model
from creativeflow.services.aigeneration.domain.pricing import FREE, credits_text
from creativeflow.services.aigeneration.storage.queries import Filters
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor, Visitor
from creativeflow.services.aigeneration.web.error_pages import get_error_text
from creativeflow.services.aigeneration.web.forms import build_claim, translate_quote_error
from creativeflow.services.aigeneration.web.studio.account import (
    UserAccount,
    invalidate_account,
    load_account,
)
from creativeflow.services.aigeneration.web.studio.choices import FORMAT_OPTIONS, INDUSTRIES, TONES
from creativeflow.services.aigeneration.web.studio.drafts import (
    FIELDS,
    OPTIONAL_FIELDS,
    Draft,
    map_errors_to_fields,
)
from creativeflow.services.aigeneration.web.studio.presenter import (
    find_thumbnail,
    format_price,
    get_status_text,
)
from creativeflow.services.aigeneration.web.studio.reference_images import build_previews
from creativeflow.services.aigeneration.web.templating import (
    PART_HEADER,
    create_page_router,
    redirect_to,
    render_page,
)

RECENT_MAX = 6

router = create_page_router("/studio")


@router.get("")
async def show_studio(
    request: Request,
    visitor: StudioVisitor,
    origin: Annotated[UUID | None, Query(alias="from")] = None,
) -> Response:
    """Show the brief form, empty or filled in from a link or from an earlier request."""
    draft = Draft.from_link(request.query_params)
    if origin is not None:
        found = await get_owned_request(services_of(request).queries, origin, visitor.principal)
        draft = Draft.from_brief(found.brief, found.project_id)
    return await _show_form(request, visitor, draft)


@router.post("/quote")
async def show_price(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """Show the form with the price of its current content; scripts fetch only the price block."""
    draft = Draft.from_form(form)
    if PART_HEADER not in request.headers:
        return await _show_form(request, visitor, draft)
    account = await load_account(request, visitor.session.user_id)
    return render_page(
        request, "studio/home.html", account=account, **await _quote(request, visitor, draft)
    )


@router.post("/requests")
async def submit_brief(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """Submit the brief; a refusal shows the form again with all input preserved.

    Idempotent for one rendered form with the same content.
    """
    draft, principal = Draft.from_form(form), visitor.principal
    try:
        submission = _build_submission(
            request, visitor, draft.validate(), form.get("quote_id") or None
        )
        reply = await services_of(request).generations.submit(
            submission, build_claim(request, principal, form.get("key"), draft.to_body())
        )
        location = reply_response(reply).headers["location"]
    except errors.AigenError as error:
        return await _show_form(request, visitor, draft, translate_quote_error(error))
    finally:
        invalidate_account(request, visitor.session.user_id)
    return redirect_to(f"/studio/requests/{location.rpartition('/')[2]}")


async def _show_form(
    request: Request, visitor: Visitor, draft: Draft, refused: errors.AigenError | None = None
) -> Response:
    account = await load_account(request, visitor.session.user_id)
    recent = await services_of(request).queries.page(
        Filters(user_id=visitor.session.user_id), RECENT_MAX
    )
    field_errors = (
        map_errors_to_fields(refused) if isinstance(refused, errors.InvalidRequestError) else {}
    )
    return render_page(
        request,
        "studio/home.html",
        refused.status if refused else 200,
        draft=draft,
        account=account,
        field_errors=field_errors,
        show_details=draft.has_options or not field_errors.keys().isdisjoint(OPTIONAL_FIELDS),
        other_errors=[message for name, message in field_errors.items() if name not in FIELDS],
        refusal=get_error_text(request, refused) if refused else None,
        refusal_code=refused.code if refused else "",
        key=secrets.token_urlsafe(18),
        formats=FORMAT_OPTIONS,
        custom=CUSTOM,
        side_min=SIDE_MIN,
        side_max=SIDE_MAX,
        prompt_max=PROMPT_MAX,
        tones=TONES,
        industries=INDUSTRIES,
        models=_list_models(request, account),
        credits_text=credits_text,
        references=build_previews(request, draft.references),
        upload_limit=services_of(request).settings.web_upload_bytes,
        recent=recent,
        status_text=get_status_text,
        thumbnail=find_thumbnail,
        **await _quote(request, visitor, draft),
    )


async def _quote(request: Request, visitor: Visitor, draft: Draft) -> dict[str, Any]:
    """Quote the draft; without a quote, `quote_error` says why."""
    try:
        found = await services_of(request).generations.quote(
            visitor.session.user_id, draft.to_priced_brief()
        )
    except errors.InvalidRequestError as error:
        message = " ".join(map_errors_to_fields(error).values())
        return {"quote": None, "quote_error": message, "price": format_price}
    except errors.AigenError as error:
        text = get_error_text(request, error)
        message = f"{text.title}. {text.sentence}"
        return {"quote": None, "quote_error": message, "price": format_price}
    return {"quote": found, "quote_error": "", "price": format_price}


def _list_models(request: Request, account: UserAccount) -> list[Model]:
    """List the models to choose from, none if there is only one.

    While the plan is unknown, those of the Free plan.
    """
    routing = services_of(request).routing()
    offered = routing.offered(Stage.SAMPLES, account.plan or FREE)
    return offered if len(offered) > 1 else []


def _build_submission(
    request: Request, visitor: Visitor, body: CreateRequest, quote_id: str | None
) -> Submission:
    return Submission(
        user_id=visitor.session.user_id,
        project_id=body.project_id,
        brief=body.brief(),
        metadata={},
        created_by=visitor.principal.identity,
        correlation_id=request.scope["aigen.request_id"],
        traceparent=request.scope.get("aigen.traceparent"),
        quote_id=quote_id,
    )
