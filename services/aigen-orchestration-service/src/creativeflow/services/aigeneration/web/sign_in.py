"""Sign-in and sign-out: by API key or token, and hand-over of a user by their platform."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Query, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.auth import address_of
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.user_ids import normalise_user_id
from creativeflow.services.aigeneration.web.auth import Form, StudioVisitor
from creativeflow.services.aigeneration.web.error_pages import ErrorText, get_error_text
from creativeflow.services.aigeneration.web.forms import FormFields, is_same_origin
from creativeflow.services.aigeneration.web.services import web_services_of
from creativeflow.services.aigeneration.web.sessions import Session
from creativeflow.services.aigeneration.web.templating import (
    clear_session_cookie,
    create_page_router,
    redirect_to,
    render_page,
    set_session_cookie,
)

TOKEN_MAX = 8_000
HOME = "/studio"

router = create_page_router()


@router.get("/")
async def redirect_home() -> Response:
    """Redirect to the studio."""
    return redirect_to(HOME)


@router.get("/sign-in")
async def show_sign_in(
    request: Request, next_path: Annotated[str, Query(alias="next", max_length=500)] = HOME
) -> Response:
    """Show the sign-in form; an open service needs none and redirects."""
    authenticator = services_of(request).authenticator
    return (
        redirect_to(_safe_path(next_path))
        if authenticator.open
        else _show_form(request, _safe_path(next_path))
    )


@router.post("/sign-in")
async def sign_in(request: Request, form: Form) -> Response:
    """Begin a session, from our own form or from one of a platform in `AIGEN_WEB_ORIGINS`."""
    _check_origin(request)
    next_path = _safe_path(form.get("next"))
    try:
        session = await _create_session(request, form)
    except (errors.InvalidCredentialsError, errors.InvalidRequestError) as error:
        return _show_form(request, next_path, error)
    response = redirect_to(next_path)
    set_session_cookie(request, response, session)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, visitor: StudioVisitor) -> Response:
    """End the session, wherever its cookie is."""
    await web_services_of(request).sessions.revoke(visitor.session)
    response = redirect_to("/sign-in")
    clear_session_cookie(request, response)
    return response


@router.post("/sign-in/user")
async def switch_user(request: Request, visitor: StudioVisitor, form: Form) -> Response:
    """Act as another user; not available to end users."""
    user_id, session = normalise_user_id(form.get("user_id")), visitor.session
    if not session.can_switch_user:
        raise errors.UserMismatchError
    if user_id is None:
        raise errors.InvalidRequestError.at(
            "/user_id", "invalid_user", "Enter a user id of up to 200 characters."
        )
    response = redirect_to(HOME)
    set_session_cookie(request, response, session.switch_user(user_id))
    return response


async def _create_session(request: Request, form: FormFields) -> Session:
    authenticator = services_of(request).authenticator
    sessions = web_services_of(request).sessions
    if token := form.get("token"):
        if len(token) > TOKEN_MAX or not authenticator.takes_tokens:
            raise errors.InvalidCredentialsError
        verified = await authenticator.verify(token, address_of(request))
        holder = authenticator.holder(verified.claims, None)
        return sessions.create_from_token(holder, verified.signer)
    key = authenticator.key(form.get("key"), address_of(request))
    user_id = normalise_user_id(form.get("user_id"))
    if user_id is None:
        raise errors.InvalidRequestError.at("/user_id", "missing", "Enter the user to act as.")
    return sessions.create_from_key(key, user_id)


def _check_origin(request: Request) -> None:
    """Protect against login CSRF: the browser must name our origin or a configured one.

    Any other page could sign a visitor in to an account of its own and read there what they
    submit.

    Raises:
        CsrfError: the origin is foreign or missing.
    """
    settings = services_of(request).settings
    origin = request.headers.get("origin")
    if origin is None or (origin not in settings.web_origins and not is_same_origin(request)):
        raise errors.CsrfError


def _show_form(
    request: Request, next_path: str, error: errors.AigenError | None = None
) -> Response:
    authenticator = services_of(request).authenticator
    refusal: ErrorText | None = get_error_text(request, error) if error else None
    field_errors = error.errors if isinstance(error, errors.InvalidRequestError) else ()
    return render_page(
        request,
        "sign_in.html",
        error.status if error else 200,
        next_path=next_path,
        refusal=refusal,
        accepts_keys=authenticator.takes_keys,
        accepts_tokens=authenticator.takes_tokens,
        field_errors=field_errors,
    )


def _safe_path(path: str) -> str:
    """Return the path if it is local, else the studio: prevents open redirects."""
    parts = urlsplit(path)
    safe = (
        path.startswith("/")
        and not path.startswith("//")
        and "\\" not in path
        and path.isprintable()
    )
    return path if safe and not parts.scheme and not parts.netloc else HOME
