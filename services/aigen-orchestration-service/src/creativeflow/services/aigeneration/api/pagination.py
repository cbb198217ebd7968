"""Opaque cursors: where a page ended, as text that callers only hand back."""

import base64
import binascii
from uuid import UUID

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError


def write_cursor(last: UUID) -> str:
    """The cursor after this id."""
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode()


def read_cursor(cursor: str | None) -> UUID | None:
    """The id a page ended at.

    Raises:
        InvalidRequestError: not a cursor of ours.
    """
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except (ValueError, binascii.Error):
        raise InvalidRequestError.at(
            "/query/cursor",
            "invalid_cursor",
            "Use the cursor of the page before, or leave it out to begin anew.",
        ) from None
