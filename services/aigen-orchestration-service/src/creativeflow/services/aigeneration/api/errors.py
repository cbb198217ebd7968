"""Errors as problem documents (RFC 9457), in the caller's language, without internal or personal
data.
"""

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from creativeflow.services.aigeneration.api.responses import json_bytes
from creativeflow.services.aigeneration.api.services import error_presentation_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.json_input import DEPTH_MAX, describe

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class JsonFault(HTTPException):
    """Carries an error through the framework's body parsing."""

    def __init__(self, error: errors.AigenError) -> None:
        super().__init__(error.status)
        self.error = error


def problem(request: Request, error: errors.AigenError) -> Response:
    """Return the response to an error: a problem document, or a page for browsers."""
    page = error_presentation_of(request).page(request, error)
    return page or _document(request, error)


def _document(request: Request, error: errors.AigenError) -> Response:
    translations = error_presentation_of(request).translations
    language = translations.choose(request.headers.get("accept-language"))
    code = error.code
    document = {
        "type": f"/problems/{code}",
        "title": translations.title(error, language),
        "status": error.status,
        "detail": translations.sentence(error, language),
        "instance": request.url.path,
        "code": code,
        "retryable": error.retryable,
        "request_id": request.scope.get("aigen.request_id", ""),
    }
    if isinstance(error, errors.InvalidRequestError):
        document["errors"] = error.errors
    headers = {"Content-Language": language}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif error.status == 503:  # noqa: PLR2004 - callers should not come back at once
        headers["Retry-After"] = "5"
    if error.fields.get("replayed"):
        headers["Idempotent-Replayed"] = "true"
    if error.status == 401:  # noqa: PLR2004 - RFC 9110 asks for the challenge
        headers["WWW-Authenticate"] = 'Bearer realm="aigen"'
    return Response(json_bytes(document), error.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register the handlers that turn every error of an endpoint into a problem document."""

    async def on_aigen_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.AigenError)  # noqa: S101 - registered for this class
        return problem(request, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
        return problem(request, from_validation(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
        answer = problem(request, from_http(error))
        if answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["Allow"] = ", ".join(sorted(_allowed(request)))
        return answer

    app.add_exception_handler(errors.AigenError, on_aigen_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)


def _allowed(request: Request) -> set[str]:
    """Return the methods of a path over all its routes; the router knows only those of its first
    match.

    A literal path, such as `/quote`, is not also matched as an id.
    """
    fitting = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    named = [route for route in fitting if route.path == request.url.path]
    return {method for route in named or fitting for method in route.methods or ()}


def from_validation(error: RequestValidationError) -> errors.AigenError:
    """Convert validation errors of the framework; `body`, `query` and `path` become the start of
    the pointer.
    """
    found = list(error.errors())
    if any(fault["type"] == "json_invalid" for fault in found):
        return errors.InvalidJsonError(max_depth=DEPTH_MAX)
    described = []
    for fault in found[:50]:
        place, *rest = fault["loc"]
        prefix = "" if place == "body" else f"/{place}"
        described.append(describe({**fault, "loc": rest}, prefix))
    return errors.InvalidRequestError(errors=described)


def from_http(error: HTTPException) -> errors.AigenError:
    """Convert an HTTP error of the framework."""
    if isinstance(error, JsonFault):
        return error.error
    if error.status_code == 404:  # noqa: PLR2004 - HTTP's numbers are their own names
        return errors.NotFoundError()
    if error.status_code == 405:  # noqa: PLR2004 - HTTP's numbers are their own names
        return errors.MethodNotAllowedError()
    if 400 <= error.status_code < 500:  # noqa: PLR2004 - HTTP's numbers are their own names
        return errors.InvalidRequestError.at("", "unreadable", "The request could not be read.")
    return errors.InternalError()
