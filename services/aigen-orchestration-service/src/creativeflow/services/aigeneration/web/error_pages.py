"""Errors as pages: a person's words for what went wrong, and always a way on."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.translations import Translations
from creativeflow.services.aigeneration.web.templating import PART, page, see_other

PATHS = ("/studio", "/console", "/sign-in", "/sign-out")
"""Below these, people are answered, not programs."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """What a person reads in place of a sentence that speaks to programs."""

    title: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Link:
    """Where it goes on from here."""

    label: str
    path: str


PLAIN: Mapping[str, ErrorText] = MappingProxyType(
    {
        "authentication_required": ErrorText(
            "Please sign in", "You are not signed in, or your session has ended. Sign in and go on."
        ),
        "invalid_credentials": ErrorText(
            "That did not work",
            "This key or token is not accepted here. Check it, or get a new one.",
        ),
        "token_expired": ErrorText(
            "Your token has expired", "Get a new token where you got this one, and sign in again."
        ),
        "not_found": ErrorText(
            "There is nothing here",
            "The page does not exist, or it belongs to another account than yours.",
        ),
        "method_not_allowed": ErrorText(
            "There is nothing here", "This address takes no such call. Start from the studio."
        ),
        "forbidden": ErrorText(
            "This is not for your account", "Sign in with an account that has the role {role}."
        ),
        "invalid_request": ErrorText(
            "Something does not fit yet", "Correct what is marked, and send it again."
        ),
        "unsupported_media_type": ErrorText(
            "This cannot be read", "Send it from the page's own form."
        ),
        "payload_too_large": ErrorText("That is too much", "Shorten it, and send it again."),
        "invalid_state": ErrorText(
            "That is not possible any more",
            "Something happened in the meantime. Here is how things stand now.",
        ),
        "already_selected": ErrorText(
            "You have already picked",
            "Another picture was picked first, perhaps in another window. That one counts.",
        ),
        "precondition_failed": ErrorText(
            "Something changed meanwhile",
            "You saw an older state. Look at the one below, and decide again.",
        ),
        "quote_expired": ErrorText(
            "The price has changed or was too old",
            "Nothing was charged. Here is the price that holds now.",
        ),
        "idempotency_key_in_flight": ErrorText(
            "We are on it already", "You sent this a moment ago. Nothing is done or charged twice."
        ),
        "idempotency_key_reused": ErrorText(
            "That page was used already",
            "It has sent something else before. Start again from the page as it is now.",
        ),
    }
)
"""By code; a code that is not here has words for people already."""

_HOME = Link("Go to the studio", "/studio")
_SIGN_IN = Link("Sign in", "/sign-in")
_WAYS: tuple[tuple[type[errors.AigenError], Link], ...] = (
    (errors.AuthenticationRequiredError, _SIGN_IN),
    (errors.InvalidCredentialsError, _SIGN_IN),
    (errors.ForbiddenError, _SIGN_IN),
)


def error_text(request: Request, error: errors.AigenError) -> ErrorText:
    """Title and sentence: ours for people in English, else the catalogue's."""
    catalogue: Translations = request.app.state.catalogue
    language = catalogue.choose(request.headers.get("accept-language"))
    plain = PLAIN.get(error.code)
    if plain is not None and language.startswith("en"):
        return ErrorText(plain.title, plain.sentence.format_map(error.fields))
    return ErrorText(catalogue.title(error, language), catalogue.sentence(error, language))


def present(request: Request, error: errors.AigenError) -> Response | None:
    """The page of an error; None where no page was asked for. A stranger's look at a page leads to
    the sign-in.
    """
    path = request.url.path
    if not any(path == start or path.startswith(f"{start}/") for start in PATHS):
        return None
    if (
        isinstance(error, errors.AuthenticationRequiredError)
        and request.method == "GET"
        and PART not in request.headers
    ):
        wanted = f"{path}?{request.url.query}" if request.url.query else path
        return see_other(f"/sign-in?next={quote(wanted)}")
    return failure_page(request, error)


def failure_page(request: Request, error: errors.AigenError) -> Response:
    """The page that says what went wrong and where it goes on."""
    way = next((way for kind, way in _WAYS if isinstance(error, kind)), _HOME)
    again = request.url.path if error.retryable and request.method == "GET" else ""
    faults = error.errors if isinstance(error, errors.InvalidRequestError) else ()
    return page(
        request,
        "error.html",
        error.status,
        words=error_text(request, error),
        way=way,
        again=again,
        faults=faults,
    )
