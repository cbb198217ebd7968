"""Parsing and validation of HTML forms, their idempotency and their origin."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from creativeflow.services.aigeneration.api.auth import Principal
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.kit.json_input import to_invalid_request

Model = TypeVar("Model", bound=BaseModel)

FIELDS_MAX = 100
_TYPE = "application/x-www-form-urlencoded"


class FormFields:
    """The fields of a form; line breaks are normalised to LF, values are stripped."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str:
        """Return the last value of a field; empty if missing."""
        return self._fields.get(name, [""])[-1].strip()

    def get_all(self, name: str) -> list[str]:
        """Return all non-empty values of a field."""
        return [value.strip() for value in self._fields.get(name, []) if value.strip()]


async def read_form(request: Request) -> FormFields:
    """Read the fields from the request body.

    Raises:
        UnsupportedMediaTypeError, InvalidRequestError: the body is not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
        raise errors.UnsupportedMediaTypeError(expected=_TYPE)
    fields: dict[str, list[str]] = {}
    try:
        text = (await request.body()).decode()
        for name, value in parse_qsl(
            text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"
        ):
            fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    except ValueError:
        raise errors.InvalidRequestError.at(
            "", "unreadable", "The form could not be read; submit it again."
        ) from None
    return FormFields(fields)


def validate_form(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Validate fields as strictly as the body of the corresponding API call.

    Raises:
        InvalidRequestError: with all validation errors.
    """
    try:
        return model.model_validate(
            {name: value for name, value in fields.items() if value is not None}
        )
    except ValidationError as error:
        raise to_invalid_request(error) from None


def build_claim(
    request: Request, principal: Principal, key: str, fields: Mapping[str, Any]
) -> IdempotencyClaim:
    """Build the idempotency claim of a form: one rendered page with the same fields is one action.

    Other fields from the same page are another action, so going back and changing them works.
    """
    text = orjson.dumps([request.url.path, key, fields], option=orjson.OPT_SORT_KEYS)
    fingerprint = hashlib.sha256(text).hexdigest()
    return IdempotencyClaim(
        principal=principal.owner, key=f"page:{fingerprint}", fingerprint=fingerprint
    )


def translate_quote_error(error: errors.AigenError) -> errors.AigenError:
    """Report an invalid `quote_id`, such as one of another user, as an expired quote."""
    is_quote_error = (
        isinstance(error, errors.InvalidRequestError) and error.errors[0]["pointer"] == "/quote_id"
    )
    return errors.QuoteExpiredError() if is_quote_error else error


def is_same_origin(request: Request) -> bool:
    """Check Sec-Fetch-Site and Origin; a request with neither header passes."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or origin in get_own_origins(request)


def get_own_origins(request: Request) -> set[str]:
    """Return the origins of these pages: of the request's host and of `AIGEN_PUBLIC_URL`."""
    settings = services_of(request).settings
    origins = {f"{request.url.scheme}://{request.headers.get('host', '')}"}
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        origins.add(f"{parts.scheme}://{parts.netloc}")
    return origins
