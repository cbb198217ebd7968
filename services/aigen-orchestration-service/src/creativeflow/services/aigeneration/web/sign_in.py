"""Signing in and out: by API key or token, and the hand-over of a user by the platform they come
from.
"""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import Authenticator, is_user_id
from creativeflow.services.aigeneration.api.rate_limit import RateLimiter
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor
from creativeflow.services.aigeneration.web.error_pages import ErrorText, error_text
from creativeflow.services.aigeneration.web.forms import FormFields, from_own_page
from creativeflow.services.aigeneration.web.sessions import Session, Sessions
from creativeflow.services.aigeneration.web.templating import (
    drop_session,
    keep_session,
    page,
    pages_router,
    see_other,
)

TOKEN_MAX = 8_000
HOME = "/studio"

router = pages_router()


@router.get("/")
async def home() -> Response:
    """The studio is what people come for."""
    return see_other(HOME)


@router.get("/sign-in")
async def sign_in_page(
    request: Request, following: Annotated[str, Query(alias="next", max_length=500)] = HOME
) -> Response:
    """How one signs in here; an open service asks for nothing."""
    gate: Authenticator = request.app.state.gate
    return see_other(_inside(following)) if gate.open else _ask(request, _inside(following))


@router.post("/sign-in")
async def sign_in(request: Request, form: Form) -> Response:
    """Begin a session; the form is our own page's, or that of a platform which the settings
    name.
    """
    _check_origin(request)
    following = _inside(form.get("next"))
    try:
        session = await _session(request, form)
    except (errors.InvalidCredentialsError, errors.InvalidRequestError) as error:
        limiter: RateLimiter = request.app.state.limiter
        limiter.check(request, f"sign-in/{request.client.host if request.client else ''}")
        return _ask(request, following, error)
    answer = see_other(following)
    keep_session(request, answer, session)
    return answer


@router.post("/sign-out")
async def sign_out(request: Request, visitor: StudioVisitor) -> Response:  # noqa: ARG001 - checks that the form is ours
    """End the session in this browser."""
    answer = see_other("/sign-in")
    drop_session(request, answer)
    return answer


@router.post("/sign-in/user")
async def switch_user(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """Act for another user, which all but end users may."""
    user_id, session = form.get("user_id"), visitor.session
    if not session.may_switch:
        raise errors.UserMismatchError
    if not is_user_id(user_id):
        raise errors.InvalidRequestError.at(
            "/user_id", "invalid_user", "Type the user's id, up to 200 characters."
        )
    answer = see_other(HOME)
    keep_session(request, answer, session.acting_for(user_id))
    return answer


async def _session(request: Request, form: FormFields) -> Session:
    gate: Authenticator = request.app.state.gate
    sessions: Sessions = request.app.state.sessions
    if token := form.get("token"):
        if len(token) > TOKEN_MAX or not gate.takes_tokens:
            raise errors.InvalidCredentialsError
        claims = await gate.claims(token)
        return sessions.of_token(gate.holder(claims, None), float(claims["exp"]))
    key = gate.key(form.get("key"))
    user_id = form.get("user_id")
    if not is_user_id(user_id):
        raise errors.InvalidRequestError.at("/user_id", "missing", "Say for which user you act.")
    return sessions.of_key(key, user_id)


def _check_origin(request: Request) -> None:
    """Nobody may be signed in, as anybody, by a page they did not mean: the browser must name a
    page we know.

    A stranger's page could otherwise sign a visitor in to the stranger's account and read what they
    ask for there.

    Raises:
        CsrfError: the form comes from somewhere else, or the browser does not say.
    """
    settings: Settings = request.app.state.settings
    origin = request.headers.get("origin")
    if origin is None or (origin not in settings.web_origins and not from_own_page(request)):
        raise errors.CsrfError


def _ask(request: Request, following: str, error: errors.AigenError | None = None) -> Response:
    gate: Authenticator = request.app.state.gate
    refusal: ErrorText | None = error_text(request, error) if error else None
    faults = error.errors if isinstance(error, errors.InvalidRequestError) else ()
    return page(
        request,
        "sign_in.html",
        error.status if error else 200,
        following=following,
        refusal=refusal,
        takes_keys=gate.takes_keys,
        takes_tokens=gate.takes_tokens,
        faults=faults,
    )


def _inside(path: str) -> str:
    """Where to go after signing in: only to pages of ours, whatever the address says."""
    parts = urlsplit(path)
    safe = (
        path.startswith("/")
        and not path.startswith("//")
        and "\\" not in path
        and path.isprintable()
    )
    return path if safe and not parts.scheme and not parts.netloc else HOME
