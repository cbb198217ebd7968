"""Reading what a form sends: bounded, in plain text, and only when the form is ours."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from creativeflow.services.aigeneration.api.auth import Principal
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.kit.json_input import to_invalid_request
from creativeflow.services.aigeneration.settings import Settings

Model = TypeVar("Model", bound=BaseModel)

FIELDS_MAX = 100
_TYPE = "application/x-www-form-urlencoded"


class FormFields:
    """The fields of a form; line breaks are single characters, and what is only spaces was not
    said.
    """

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str:
        """The last value of a field, trimmed; empty where it is missing."""
        return self._fields.get(name, [""])[-1].strip()

    def all(self, name: str) -> list[str]:
        """Every value of a field that says something."""
        return [value.strip() for value in self._fields.get(name, []) if value.strip()]


async def read_form(request: Request) -> FormFields:
    """The fields of the body.

    Raises:
        UnsupportedMediaTypeError, InvalidRequestError: it is not a form.
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
            "", "unreadable", "The form could not be read; send it again."
        ) from None
    return FormFields(fields)


def checked(model: type[Model], said: Mapping[str, Any]) -> Model:
    """What a form says, as strict as the body of the call it stands for.

    Raises:
        InvalidRequestError: with every place that does not fit.
    """
    try:
        return model.model_validate(
            {name: value for name, value in said.items() if value is not None}
        )
    except ValidationError as error:
        raise to_invalid_request(error) from None


def claim(
    request: Request, principal: Principal, key: str, said: Mapping[str, Any]
) -> IdempotencyClaim:
    """The idempotency key of a form: the same page with the same words is one action, however often
    it is sent.

    Other words from the same page are another action, so going back and changing them works.
    """
    text = orjson.dumps([request.url.path, key, said], option=orjson.OPT_SORT_KEYS)
    fingerprint = hashlib.sha256(text).hexdigest()
    return IdempotencyClaim(
        principal=principal.owner, key=f"page:{fingerprint}", fingerprint=fingerprint
    )


def as_seen(error: errors.AigenError) -> errors.AigenError:
    """A refusal as whoever sent a form would say it: a price that was shown to another user is no
    price.
    """
    foreign = (
        isinstance(error, errors.InvalidRequestError) and error.errors[0]["pointer"] == "/quote_id"
    )
    return errors.QuoteExpiredError() if foreign else error


def from_own_page(request: Request) -> bool:
    """Whether the browser says that a page of ours sent this; True as well where it says nothing at
    all.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or origin in own_origins(request)


def own_origins(request: Request) -> set[str]:
    """The origins under which these pages are reached: as the browser names it, and as the settings
    do.
    """
    settings: Settings = request.app.state.settings
    found = {f"{request.url.scheme}://{request.headers.get('host', '')}"}
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        found.add(f"{parts.scheme}://{parts.netloc}")
    return found
