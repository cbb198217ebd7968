"""What the console's pages share: their looks at the service, their words, and how an operator's
deed is answered.
"""

import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.runbook import OUTBOX_MESSAGES, STALLS, Explanation
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.web.auth import Visitor
from creativeflow.services.aigeneration.web.console.labels import (
    DONE,
    credits_words,
    linked,
    since,
    span,
    state_label,
)
from creativeflow.services.aigeneration.web.console.snapshot import SnapshotCache
from creativeflow.services.aigeneration.web.error_pages import ErrorText, error_text
from creativeflow.services.aigeneration.web.forms import FormFields
from creativeflow.services.aigeneration.web.studio.presenter import thumbnail
from creativeflow.services.aigeneration.web.templating import page, see_other

_BACK = re.compile(r"/console(/[\w.~%:@+-]+)*", re.ASCII)
_UNKNOWN_MESSAGE = Explanation(
    "A message of a kind that is not known here.", "It will never be paid."
)

Show = Callable[[int, ErrorText], Awaitable[Response]]
"""Shows the page on which something was tried, with this status and what was refused above it."""


def overview(request: Request) -> SnapshotCache:
    """What this process knows at a glance."""
    found: SnapshotCache = request.app.state.overview
    return found


async def console_page(
    request: Request,
    visitor: Visitor,
    name: str,
    status: int = 200,
    *,
    refusal: ErrorText | None = None,
    **values: Any,
) -> Response:
    """A page of the console."""
    now: datetime = request.app.state.now()
    needs = await overview(request).needs()
    return page(
        request,
        name,
        status,
        operator=visitor.principal.name,
        now=now,
        needs=needs,
        need_count=sum(needs.values()),
        refusal=refusal,
        done=DONE.get(request.query_params.get("done", ""), ""),
        key=secrets.token_urlsafe(18),
        state_label=state_label,
        credits_text=credits_text,
        credits_words=credits_words,
        span=span,
        thumbnail=thumbnail,
        ago=lambda moment: since(moment, now),
        message_words=message_label,
        linked=linked,
        stalls=STALLS,
        **values,
    )


async def run_action(
    request: Request,
    form: FormFields,
    show: Show,
    act: Callable[[], Awaitable[Any]],
    *,
    done: str,
    fallback: str,
) -> Response:
    """Do something and go back to where it was asked for; what is refused is told there, above how
    things are now.

    `act` may answer False where somebody else was faster, and a path where it goes on elsewhere.
    """
    try:
        came = await act()
    except errors.NotFoundError:
        raise
    except errors.AigenError as error:
        return await show(error.status, _refused(request, error))
    finally:
        overview(request).forget()
    if came is False:
        return await show(
            409,
            ErrorText(
                "Somebody was faster", "This was done already. Here is how things stand now."
            ),
        )
    back = came if isinstance(came, str) else form.get("back")
    return see_other(f"{back if _BACK.fullmatch(back) else fallback}?done={done}")


def caller(visitor: Visitor, claim: IdempotencyClaim | None = None) -> Caller:
    """The operator, as the orchestrator knows who acts."""
    return Caller(name=visitor.principal.name, claim=claim)


def message_label(message: dict[str, Any]) -> dict[str, str]:
    """What has happened to a message, and what replaying and dropping it mean."""
    known = OUTBOX_MESSAGES.get(message["about"], _UNKNOWN_MESSAGE)
    told = {
        "credits": credits_text(message["amount"] or 0),
        "user": message["user_id"] or "the user",
        "event": message["event_type"] or "unknown",
    }
    money = {
        "credits.capture": (
            f"{told['user']} is charged {told['credits']} credits, once, however often it is tried."
        ),
        "credits.release": (
            f"{told['user']} gets {told['credits']} credits back, once, however often it is tried."
        ),
    }.get(
        message["about"],
        "It is tried again at once. Receivers know repeats by their id. No money moves.",
    )
    return {
        "means": known.means.format_map(told),
        "drop": known.then.format_map(told),
        "replay": money,
    }


def _refused(request: Request, error: errors.AigenError) -> ErrorText:
    words = error_text(request, error)
    if isinstance(error, errors.InvalidRequestError):
        return ErrorText(words.title, " ".join(fault["message"] for fault in error.errors))
    return words
