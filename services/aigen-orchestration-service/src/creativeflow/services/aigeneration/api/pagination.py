"""Opaque cursors of pages."""

import base64
import binascii
from uuid import UUID

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError


def write_cursor(last: UUID) -> str:
    """Return the cursor of the page after this id."""
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode()


def read_cursor(cursor: str | None) -> UUID | None:
    """Return the id at which the previous page ended.

    Raises:
        InvalidRequestError: the cursor is invalid.
    """
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except (ValueError, binascii.Error):
        raise InvalidRequestError.at(
            "/query/cursor",
            "invalid_cursor",
            "Use the cursor of the previous page, or omit it for the first page.",
        ) from None
