"""What the console's pages share: common template values and the handling of operator actions."""

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.runbook import OUTBOX_MESSAGES, STALLS, Explanation
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.web.auth import Visitor
from creativeflow.services.aigeneration.web.console.labels import (
    CONFIRMATIONS,
    format_age,
    format_credits,
    format_duration,
    get_state_label,
    render_links,
)
from creativeflow.services.aigeneration.web.console.snapshot import SnapshotCache
from creativeflow.services.aigeneration.web.error_pages import ErrorText, get_error_text
from creativeflow.services.aigeneration.web.forms import FormFields
from creativeflow.services.aigeneration.web.services import web_services_of
from creativeflow.services.aigeneration.web.studio.presenter import find_thumbnail
from creativeflow.services.aigeneration.web.templating import redirect_to, render_page

_CONSOLE_PATH = re.compile(r"/console(/[\w.~%:@+-]+)*", re.ASCII)
_UNKNOWN_MESSAGE = Explanation("A message of unknown kind.", "It will never be delivered.")

ShowRefusal = Callable[[int, ErrorText], Awaitable[Response]]
"""Renders the page of an action again, with this status and the refusal above its content."""


def get_snapshots(request: Request) -> SnapshotCache:
    """Return the snapshots shared by all viewers of this process."""
    return web_services_of(request).snapshots


async def render_console_page(
    request: Request,
    visitor: Visitor,
    name: str,
    status: int = 200,
    *,
    refusal: ErrorText | None = None,
    **values: Any,
) -> Response:
    """Render a template with the values that every console page needs."""
    now = services_of(request).now()
    attention = await get_snapshots(request).attention()
    return render_page(
        request,
        name,
        status,
        operator=visitor.principal.identity,
        now=now,
        attention=attention,
        attention_total=sum(attention.values()),
        refusal=refusal,
        confirmation=CONFIRMATIONS.get(request.query_params.get("done", ""), ""),
        key=secrets.token_urlsafe(18),
        state_label=get_state_label,
        credits_text=credits_text,
        format_credits=format_credits,
        format_duration=format_duration,
        thumbnail=find_thumbnail,
        age=lambda moment: format_age(moment, now),
        describe_message=describe_message,
        render_links=render_links,
        stall_explanations=STALLS,
        **values,
    )


async def run_action(
    request: Request,
    form: FormFields,
    show: ShowRefusal,
    act: Callable[[], Awaitable[Any]],
    *,
    done: str,
    fallback: str,
) -> Response:
    """Run an operator's action and redirect; a refusal is shown on the page it came from.

    `act` may return False if the action was already done by someone else (409), and a path to
    redirect to instead of the form's `back`, which must lie below `/console`.
    """
    try:
        result = await act()
    except errors.NotFoundError:
        raise
    except errors.AigenError as error:
        return await show(error.status, _to_refusal(request, error))
    finally:
        get_snapshots(request).invalidate()
    if result is False:
        refusal = ErrorText(
            "Already done",
            "This action was performed in the meantime. The current state is shown below.",
        )
        return await show(409, refusal)
    back = result if isinstance(result, str) else form.get("back")
    return redirect_to(f"{back if _CONSOLE_PATH.fullmatch(back) else fallback}?done={done}")


def build_caller(visitor: Visitor, claim: IdempotencyClaim | None = None) -> Caller:
    """Build the caller of a use case from the operator."""
    return Caller(name=visitor.principal.identity, claim=claim)


def describe_message(message: dict[str, Any]) -> dict[str, str]:
    """Describe an outbox message: its meaning, and the effects of replaying and dropping it."""
    explanation = OUTBOX_MESSAGES.get(message["about"], _UNKNOWN_MESSAGE)
    values = {
        "credits": credits_text(message["amount"] or 0),
        "user": message["user_id"] or "the user",
        "event": message["event_type"] or "unknown",
    }
    on_replay = {
        "credits.capture": "Charges {user} {credits} credits, exactly once.",
        "credits.release": "Releases {credits} credits to {user}, exactly once.",
    }.get(
        message["about"],
        "The message is retried immediately; receivers detect duplicates by id. No effect on"
        " credits.",
    )
    return {
        "meaning": explanation.means.format_map(values),
        "on_drop": explanation.then.format_map(values),
        "on_replay": on_replay.format_map(values),
    }


def _to_refusal(request: Request, error: errors.AigenError) -> ErrorText:
    text = get_error_text(request, error)
    if isinstance(error, errors.InvalidRequestError):
        return ErrorText(text.title, " ".join(each["message"] for each in error.errors))
    return text
