"""One request in the studio: live progress, and forms for the actions of the API."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import get_owned_request
from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import (
    PROMPT_MAX,
    BriefChanges,
    SelectSample,
)
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.generations import ActionResult, Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import FILE_FORMATS
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.pricing import FREE
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor, Visitor
from creativeflow.services.aigeneration.web.error_pages import get_error_text
from creativeflow.services.aigeneration.web.forms import (
    FormFields,
    build_claim,
    translate_quote_error,
    validate_form,
)
from creativeflow.services.aigeneration.web.live import stream_request_changes
from creativeflow.services.aigeneration.web.studio.account import invalidate_account, load_account
from creativeflow.services.aigeneration.web.studio.choices import get_format_title
from creativeflow.services.aigeneration.web.studio.drafts import map_errors_to_fields
from creativeflow.services.aigeneration.web.studio.presenter import (
    build_slots,
    describe_cost,
    format_price,
    get_status_text,
    list_sizes,
)
from creativeflow.services.aigeneration.web.studio.reference_images import build_previews
from creativeflow.services.aigeneration.web.templating import (
    create_page_router,
    redirect_to,
    render_page,
)

_BRIEF_FIELDS = {
    "updated_prompt": "input_prompt",
    "updated_style_guidance": "style_guidance",
    "model": "model",
}
"""Form fields that change the brief, with the field of the brief that each changes."""
_VERSION_DIGITS_MAX = 9
_CLAIM_FIELDS = (*_BRIEF_FIELDS, "sample", "size", "file_format")
"""Fields that distinguish actions of one page; the same values again are the same action."""

router = create_page_router("/studio/requests/{request_id}")


@router.get("")
async def show_request(request_id: UUID, request: Request, visitor: StudioVisitor) -> Response:
    """Show the request with the available actions."""
    return await _show(
        request,
        visitor,
        await get_owned_request(services_of(request).queries, request_id, visitor.principal),
    )


@router.get("/stream")
async def stream_changes(request_id: UUID, request: Request, visitor: StudioVisitor) -> Response:
    """Stream a signal whenever the request changes."""
    found = await get_owned_request(services_of(request).queries, request_id, visitor.principal)
    return stream_request_changes(request, visitor.session, found)


@router.post("/select-sample")
async def select_sample(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Select a sample and order the final in the chosen size.

    Enter on a sample submits the hidden button `reload`, which orders nothing: no price is shown
    there.
    """
    if form.get("reload"):
        return redirect_to(f"/studio/requests/{request_id}")

    async def act() -> ActionResult:
        fields = {
            "selected_sample_id": form.get("sample"),
            "desired_resolution": form.get("size") or None,
            "output_format": form.get("file_format") or None,
            "quote_id": form.get("quote_id") or None,
        }
        body = validate_form(SelectSample, fields)
        caller = _build_caller(request, visitor, form, key=f"{request_id}:{form.get('version')}")
        return await services_of(request).generations.select_sample(
            request_id, body.choice(), caller, quote_id=body.quote_id
        )

    return await _run(request, visitor, request_id, act)


@router.post("/regenerate-samples")
async def regenerate_samples(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Request another round of samples, with a changed brief if any field differs."""

    async def act() -> ActionResult:
        found = await get_owned_request(services_of(request).queries, request_id, visitor.principal)
        body = _validate_changes(found, form)
        caller = _build_caller(request, visitor, form, key=f"{request_id}:{form.get('version')}")
        return await services_of(request).generations.regenerate(
            request_id, caller, body.changes(), body.quote_id
        )

    return await _run(request, visitor, request_id, act)


@router.post("/retry")
async def retry_request(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Create a new request with the same or a changed brief."""

    async def act() -> ActionResult:
        found = await get_owned_request(services_of(request).queries, request_id, visitor.principal)
        body = _validate_changes(found, form)
        caller = _build_caller(request, visitor, form, key=form.get("key"), at_version=False)
        return await services_of(request).generations.retry(
            request_id,
            caller,
            body.changes(),
            correlation_id=request.scope["aigen.request_id"],
            traceparent=request.scope["aigen.traceparent"],
            quote_id=body.quote_id,
        )

    return await _run(request, visitor, request_id, act)


@router.post("/cancel")
async def cancel_request(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Cancel the request; has no effect if it has already ended."""

    async def act() -> ActionResult:
        caller = _build_caller(request, visitor, form, key=str(request_id), at_version=False)
        return await services_of(request).generations.cancel(request_id, caller)

    return await _run(request, visitor, request_id, act)


async def _run(
    request: Request, visitor: Visitor, request_id: UUID, act: Callable[[], Awaitable[ActionResult]]
) -> Response:
    """Run an action and redirect to the request; a refusal is shown above its current state."""
    try:
        location = reply_response(await act()).headers.get("location", str(request_id))
    except errors.NotFoundError:
        raise
    except errors.AigenError as error:
        return await _show(
            request,
            visitor,
            await get_owned_request(services_of(request).queries, request_id, visitor.principal),
            translate_quote_error(error),
        )
    finally:
        invalidate_account(request, visitor.session.user_id)
    return redirect_to(f"/studio/requests/{location.rpartition('/')[2]}")


def _build_caller(
    request: Request, visitor: Visitor, form: FormFields, *, key: str, at_version: bool = True
) -> Caller:
    """Build the caller; with `at_version`, the action applies only to the version shown."""
    version = form.get("version")
    is_valid = version.isascii() and version.isdigit() and len(version) <= _VERSION_DIGITS_MAX
    versions = frozenset({int(version)} if is_valid else ())
    fields = {name: form.get(name) for name in _CLAIM_FIELDS}
    return Caller(
        name=visitor.principal.identity,
        user_id=visitor.principal.user_id,
        expected_versions=versions if at_version else None,
        claim=build_claim(request, visitor.principal, key, fields),
    )


def _validate_changes(found: GenerationRequest, form: FormFields) -> BriefChanges:
    """Validate the fields that differ from the brief."""
    before: dict[str, Any] = dict(found.brief)
    changes = {
        name: form.get(name)
        for name, field in _BRIEF_FIELDS.items()
        if form.get(name) not in {"", before.get(field)}
    }
    return validate_form(BriefChanges, changes | {"quote_id": form.get("quote_id") or None})


async def _show(
    request: Request,
    visitor: Visitor,
    found: GenerationRequest,
    refused: errors.AigenError | None = None,
) -> Response:
    account = await load_account(request, visitor.session.user_id)
    position = await services_of(request).queries.queue_position(found)
    resource = to_resource(found, queue_position=position)
    field_errors = (
        map_errors_to_fields(refused) if isinstance(refused, errors.InvalidRequestError) else {}
    )
    policy = services_of(request).policy
    quote, quote_error = await _quote(request, found, resource["actions"])
    return render_page(
        request,
        "studio/request.html",
        refused.status if refused else 200,
        generation=found,
        status_texts=get_status_text(found, position),
        cost_lines=describe_cost(found),
        slots=build_slots(found),
        account=account,
        actions=resource["actions"],
        quote=quote,
        quote_error=quote_error,
        price=format_price,
        sizes=list_sizes(found.dimensions, quote, policy.prices) if quote else [],
        file_formats=FILE_FORMATS,
        models=services_of(request).routing().offered(Stage.SAMPLES, account.plan or FREE),
        prompt_max=PROMPT_MAX,
        refusal=get_error_text(request, refused) if refused else None,
        refusal_code=refused.code if refused else "",
        refusal_messages=list(field_errors.values()),
        key=secrets.token_urlsafe(18),
        format_title=get_format_title,
        references=build_previews(request, found.brief.get("uploaded_image_references", ())),
    )


async def _quote(
    request: Request, found: GenerationRequest, actions: list[str]
) -> tuple[dict[str, Any] | None, str]:
    """Quote the next step if there is one that costs credits, else say why there is no quote."""
    if not {"select-sample", "regenerate-samples", "retry"} & set(actions):
        return None, ""
    try:
        return await services_of(request).generations.quote(found.user_id, found.brief), ""
    except errors.AigenError as error:
        text = get_error_text(request, error)
        return None, f"{text.title}. {text.sentence}"
