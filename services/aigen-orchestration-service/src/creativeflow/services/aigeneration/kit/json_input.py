"""Parse JSON input with a depth limit, and describe errors with pointer and sentence."""

import re
import unicodedata
from typing import Any

import orjson
from pydantic import ValidationError

from creativeflow.services.aigeneration.domain.errors import InvalidJsonError, InvalidRequestError

DEPTH_MAX = 20
METADATA_MAX_BYTES = 8_000
"""Metadata of callers and workers as JSON; it is stored and sent with every state."""
LINE_BREAKS = "\n\r"
ERRORS_MAX = 50
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_AS_ROUND = bytes.maketrans(b"[{]}", b"(())")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(body: bytes, *, max_depth: int = DEPTH_MAX) -> Any:
    """Parse a JSON text.

    Raises:
        InvalidJsonError: not JSON in UTF-8, or nested deeper than `max_depth`.
    """
    if _too_deep(body, max_depth):
        raise InvalidJsonError(max_depth=max_depth)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidJsonError(max_depth=max_depth) from None


def _too_deep(body: bytes, max_depth: int) -> bool:
    """Return whether a JSON text is nested deeper than that; brackets inside strings do not count.

    Each round removes the innermost pairs, in C, so that a large body does not block the event
    loop.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    brackets = _STRING.sub(b"", body).translate(_AS_ROUND, _NOT_BRACKETS)
    for _ in range(max_depth):
        brackets = brackets.replace(b"()", b"")
        if not brackets:
            return False
    return True


def clean_text(text: Any) -> Any:
    """Trim and normalise (NFC) a text; reject invisible characters other than line breaks."""
    if not isinstance(text, str):
        return text
    text = unicodedata.normalize("NFC", text.strip())
    if text.isprintable():
        return text
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in LINE_BREAKS:
            raise ValueError(
                "control_characters: Control characters are not allowed here; remove them."
            )
    return text


def plain_texts(value: Any, place: str = "") -> Any:
    """Check every text inside a value like `clean_text`, without changing it; `place` is its
    pointer.
    """
    if isinstance(value, str):
        try:
            clean_text(value)
        except ValueError as error:
            code, _, sentence = str(error).partition(": ")
            raise ValueError(f"{code}@{place}: {sentence}") from None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            plain_texts(item, f"{place}/{index}")
    elif isinstance(value, dict):
        for key, item in value.items():
            plain_texts(key, place)
            plain_texts(item, f"{place}/{escaped(str(key))}")
    return value


def escaped(part: str) -> str:
    """Escape one part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


_PLAIN_WORDS = {
    "missing": "This field is required.",
    "extra_forbidden": "This field is not known here. Leave it out, or check its spelling.",
    "string_type": "This must be a text.",
    "string_too_short": "This text is too short: at least {min_length} characters.",
    "string_too_long": "This text is too long: at most {max_length} characters.",
    "string_pattern_mismatch": "This text does not have the expected form.",
    "int_type": "This must be a whole number.",
    "int_parsing": "This must be a whole number.",
    "int_from_float": "This must be a whole number.",
    "bool_type": "This must be true or false.",
    "bool_parsing": "This must be true or false.",
    "list_type": "This must be a list.",
    "dict_type": "This must be an object.",
    "model_type": "This must be an object.",
    "model_attributes_type": "This must be an object.",
    "too_long": "There are too many entries: at most {max_length}.",
    "too_short": "There are too few entries: at least {min_length}.",
    "greater_than_equal": "This must be at least {ge}.",
    "less_than_equal": "This must be at most {le}.",
    "literal_error": "Use one of {expected}.",
    "enum": "Use one of {expected}.",
    "uuid_parsing": "This must be a UUID.",
    "uuid_type": "This must be a UUID.",
    "datetime_from_date_parsing": "This must be a date and time such as 2026-01-31T12:00:00Z.",
    "datetime_parsing": "This must be a date and time such as 2026-01-31T12:00:00Z.",
    "timezone_aware": "Give the time zone, such as Z.",
    "json_invalid": "This is not valid JSON.",
}


def to_invalid_request(error: ValidationError, *, prefix: str = "") -> InvalidRequestError:
    """Convert Pydantic errors to pointer, code and sentence each, without the input."""
    found = [
        describe(dict(fault), prefix)
        for fault in error.errors(include_url=False, include_input=False)
    ]
    return InvalidRequestError(errors=found[:ERRORS_MAX])


def describe(fault: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return code, pointer and sentence of a Pydantic error.

    Validators of this service raise `code: sentence` or `code@/place: sentence`.
    """
    pointer = prefix + "".join(f"/{escaped(str(part))}" for part in fault["loc"])
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        code, _, sentence = str(context.get("error", "invalid: This does not fit.")).partition(": ")
        code, _, place = code.partition("@")
        return {"pointer": pointer + place, "code": code, "message": sentence}
    words = _PLAIN_WORDS.get(kind, "This value does not fit.")
    return {"pointer": pointer, "code": kind, "message": words.format_map(context)}
