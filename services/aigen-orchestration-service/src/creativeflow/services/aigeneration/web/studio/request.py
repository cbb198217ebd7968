"""One request in the studio: watched live, steered by forms that do what the API does, and its
outcome.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import (
    get_owned_request,
    orchestrator,
    queries,
)
from creativeflow.services.aigeneration.api.responses import reply_response
from creativeflow.services.aigeneration.api.schemas.generations import (
    PROMPT_MAX,
    BriefChanges,
    SelectSample,
)
from creativeflow.services.aigeneration.application.generations import ActionResult, Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.formats import FILE_FORMATS
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import FREE
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor, Visitor
from creativeflow.services.aigeneration.web.error_pages import error_text
from creativeflow.services.aigeneration.web.forms import FormFields, as_seen, checked, claim
from creativeflow.services.aigeneration.web.live import changes
from creativeflow.services.aigeneration.web.studio.account import account_of, forget
from creativeflow.services.aigeneration.web.studio.choices import format_title
from creativeflow.services.aigeneration.web.studio.drafts import by_field
from creativeflow.services.aigeneration.web.studio.presenter import (
    money,
    price,
    sizes,
    slots,
    status_text,
)
from creativeflow.services.aigeneration.web.studio.reference_images import previews
from creativeflow.services.aigeneration.web.templating import page, pages_router, see_other

_CHANGED = {
    "updated_prompt": "input_prompt",
    "updated_style_guidance": "style_guidance",
    "model": "model",
}
"""Fields that change the brief, and which of its own each changes."""
_VERSION_DIGITS_MAX = 9
_SAID = (*_CHANGED, "sample", "size", "file_format")
"""What tells one action on a page from another; the same again is the same action."""

router = pages_router("/studio/requests/{request_id}")


@router.get("")
async def look(request_id: UUID, request: Request, visitor: StudioVisitor) -> Response:
    """Where it stands, and what can be done."""
    return await _show(
        request, visitor, await get_owned_request(queries(request), request_id, visitor.principal)
    )


@router.get("/stream")
async def stream(request_id: UUID, request: Request, visitor: StudioVisitor) -> Response:
    """That it has changed, as it changes."""
    found = await get_owned_request(queries(request), request_id, visitor.principal)
    return changes(request, visitor.session, found)


@router.post("/select-sample")
async def select_sample(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Pick one and order the final; Enter on a sample orders nothing, because no price stands
    there.
    """
    if form.get("look"):
        return see_other(f"/studio/requests/{request_id}")

    async def act() -> ActionResult:
        said = {
            "selected_sample_id": form.get("sample"),
            "desired_resolution": form.get("size") or None,
            "output_format": form.get("file_format") or None,
            "quote_id": form.get("quote_id") or None,
        }
        body = checked(SelectSample, said)
        caller = _caller(request, visitor, form, key=f"{request_id}:{form.get('version')}")
        return await orchestrator(request).select_sample(
            request_id, body.choice(), caller, quote_id=body.quote_id
        )

    return await _do(request, visitor, request_id, act)


@router.post("/regenerate-samples")
async def regenerate_samples(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """Another round of samples, with other words where they were changed."""

    async def act() -> ActionResult:
        found = await get_owned_request(queries(request), request_id, visitor.principal)
        body = _changes(found, form)
        caller = _caller(request, visitor, form, key=f"{request_id}:{form.get('version')}")
        return await orchestrator(request).regenerate(
            request_id, caller, body.changes(), body.quote_id
        )

    return await _do(request, visitor, request_id, act)


@router.post("/retry")
async def retry(request_id: UUID, request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """The same again, or with other words, as a new request."""

    async def act() -> ActionResult:
        found = await get_owned_request(queries(request), request_id, visitor.principal)
        body = _changes(found, form)
        caller = _caller(request, visitor, form, key=form.get("key"), at_version=False)
        return await orchestrator(request).retry(
            request_id,
            caller,
            body.changes(),
            correlation_id=request.scope["aigen.request_id"],
            traceparent=request.scope["aigen.traceparent"],
            quote_id=body.quote_id,
        )

    return await _do(request, visitor, request_id, act)


@router.post("/cancel")
async def cancel(
    request_id: UUID, request: Request, visitor: StudioVisitor, form: Form
) -> Response:
    """End it; on a request that has ended nothing happens, and the page says how it ended."""

    async def act() -> ActionResult:
        caller = _caller(request, visitor, form, key=str(request_id), at_version=False)
        return await orchestrator(request).cancel(request_id, caller)

    return await _do(request, visitor, request_id, act)


async def _do(
    request: Request, visitor: Visitor, request_id: UUID, act: Callable[[], Awaitable[ActionResult]]
) -> Response:
    """Act, and go on to the request as it is then; what is refused is told there, above the state
    that holds now.
    """
    try:
        location = reply_response(await act()).headers.get("location", str(request_id))
    except errors.NotFoundError:
        raise
    except errors.AigenError as error:
        return await _show(
            request,
            visitor,
            await get_owned_request(queries(request), request_id, visitor.principal),
            as_seen(error),
        )
    finally:
        forget(request, visitor.session.user_id)
    return see_other(f"/studio/requests/{location.rpartition('/')[2]}")


def _caller(
    request: Request, visitor: Visitor, form: FormFields, *, key: str, at_version: bool = True
) -> Caller:
    """Who acts; where it matters, only on the version which the page showed."""
    version = form.get("version")
    readable = version.isascii() and version.isdigit() and len(version) <= _VERSION_DIGITS_MAX
    seen = frozenset({int(version)} if readable else ())
    said = {name: form.get(name) for name in _SAID}
    return Caller(
        name=visitor.principal.name,
        user_id=visitor.principal.user_id,
        expected_versions=seen if at_version else None,
        claim=claim(request, visitor.principal, key, said),
    )


def _changes(found: GenerationRequest, form: FormFields) -> BriefChanges:
    """What differs from what was asked before."""
    before: dict[str, Any] = dict(found.brief)
    said = {
        name: form.get(name)
        for name, was in _CHANGED.items()
        if form.get(name) not in {"", before.get(was)}
    }
    return checked(BriefChanges, said | {"quote_id": form.get("quote_id") or None})


async def _show(
    request: Request,
    visitor: Visitor,
    found: GenerationRequest,
    refused: errors.AigenError | None = None,
) -> Response:
    account = await account_of(request, visitor.session.user_id)
    position = await queries(request).queue_position(found)
    seen = to_resource(found, queue_position=position)
    faults = by_field(refused) if isinstance(refused, errors.InvalidRequestError) else {}
    policy: Policy = request.app.state.policy
    quote, unpriced = await _quote(request, found, seen["actions"])
    return page(
        request,
        "studio/request.html",
        refused.status if refused else 200,
        it=found,
        seen=seen,
        told=status_text(found, position),
        money=money(found),
        slots=slots(found),
        account=account,
        actions=seen["actions"],
        quote=quote,
        unpriced=unpriced,
        price=price,
        sizes=sizes(found.dimensions, quote, policy.prices) if quote else [],
        file_formats=FILE_FORMATS,
        models=request.app.state.routing().offered(Stage.SAMPLES, account.plan or FREE),
        prompt_max=PROMPT_MAX,
        refusal=error_text(request, refused) if refused else None,
        refused=refused.code if refused else "",
        faults=list(faults.values()),
        key=secrets.token_urlsafe(18),
        format_title=format_title,
        references=previews(request, found.brief.get("uploaded_image_references", ())),
    )


async def _quote(
    request: Request, found: GenerationRequest, actions: list[str]
) -> tuple[dict[str, Any] | None, str]:
    """What the next step would cost, where one that costs something can be taken."""
    if not {"select-sample", "regenerate-samples", "retry"} & set(actions):
        return None, ""
    try:
        return await orchestrator(request).quote(found.user_id, found.brief), ""
    except errors.AigenError as error:
        words = error_text(request, error)
        return None, f"{words.title}. {words.sentence}"
