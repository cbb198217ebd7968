"""Error pages: plain-language texts for errors, with a link to continue."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.services import error_presentation_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web.templating import PART_HEADER, redirect_to, render_page

PAGE_PREFIXES = ("/studio", "/console", "/sign-in", "/sign-out")
"""Errors below these paths are rendered as pages instead of problem documents."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """Title and sentence of an error, worded for users of the pages."""

    title: str
    sentence: str


@dataclass(frozen=True, slots=True)
class NextLink:
    """A link with its label."""

    label: str
    path: str


ERROR_TEXTS: Mapping[str, ErrorText] = MappingProxyType(
    {
        "authentication_required": ErrorText(
            "Please sign in", "You are not signed in, or your session has ended."
        ),
        "invalid_credentials": ErrorText(
            "Sign-in failed", "This key or token is not valid. Check it, or get a new one."
        ),
        "token_expired": ErrorText(
            "Your token has expired", "Get a new token from your platform and sign in again."
        ),
        "not_found": ErrorText(
            "Page not found", "The page does not exist, or it belongs to another account."
        ),
        "method_not_allowed": ErrorText(
            "Page not found", "This address does not support this action."
        ),
        "forbidden": ErrorText(
            "Access denied", "Sign in with an account that has the role {role}."
        ),
        "invalid_request": ErrorText(
            "Please check your input", "Correct the marked fields and submit again."
        ),
        "unsupported_media_type": ErrorText(
            "Unsupported format", "Please use the form on the page."
        ),
        "payload_too_large": ErrorText("Input too large", "Shorten it and submit again."),
        "invalid_state": ErrorText(
            "No longer possible",
            "The request has changed in the meantime. Its current state is shown below.",
        ),
        "already_selected": ErrorText(
            "Already selected", "Another sample was selected first, perhaps in another window."
        ),
        "precondition_failed": ErrorText(
            "The request has changed",
            "Your page was out of date. Check the current state below and try again.",
        ),
        "quote_expired": ErrorText(
            "The price has changed or expired",
            "Nothing was charged. The current price is shown below.",
        ),
        "idempotency_key_in_flight": ErrorText(
            "Already in progress",
            "You submitted this a moment ago. Nothing is done or charged twice.",
        ),
        "idempotency_key_reused": ErrorText(
            "Form already submitted",
            "This form was submitted before with other content. Reload the page and try again.",
        ),
    }
)
"""English texts by error code; other codes have texts for users on their error class."""

_HOME = NextLink("Go to the studio", "/studio")
_SIGN_IN = NextLink("Sign in", "/sign-in")
_NEXT_LINKS: tuple[tuple[type[errors.AigenError], NextLink], ...] = (
    (errors.AuthenticationRequiredError, _SIGN_IN),
    (errors.InvalidCredentialsError, _SIGN_IN),
    (errors.ForbiddenError, _SIGN_IN),
)


def get_error_text(request: Request, error: errors.AigenError) -> ErrorText:
    """Return the page text of an error in English, else its translation."""
    translations = error_presentation_of(request).translations
    language = translations.choose(request.headers.get("accept-language"))
    text = ERROR_TEXTS.get(error.code)
    if text is not None and language.startswith("en"):
        return ErrorText(text.title, text.sentence.format_map(error.fields))
    return ErrorText(translations.title(error, language), translations.sentence(error, language))


def present(request: Request, error: errors.AigenError) -> Response | None:
    """Render an error as a page; None if the path is not one of a page.

    A page that needs a sign-in redirects there.
    """
    path = request.url.path
    if not any(path == start or path.startswith(f"{start}/") for start in PAGE_PREFIXES):
        return None
    if (
        isinstance(error, errors.AuthenticationRequiredError)
        and request.method == "GET"
        and PART_HEADER not in request.headers
    ):
        target = f"{path}?{request.url.query}" if request.url.query else path
        return redirect_to(f"/sign-in?next={quote(target)}")
    return render_error_page(request, error)


def render_error_page(request: Request, error: errors.AigenError) -> Response:
    """Render the page of an error, with its field errors and a link to continue."""
    next_link = next((link for kind, link in _NEXT_LINKS if isinstance(error, kind)), _HOME)
    retry_path = request.url.path if error.retryable and request.method == "GET" else ""
    field_errors = error.errors if isinstance(error, errors.InvalidRequestError) else ()
    return render_page(
        request,
        "error.html",
        error.status,
        text=get_error_text(request, error),
        next_link=next_link,
        retry_path=retry_path,
        field_errors=field_errors,
    )
