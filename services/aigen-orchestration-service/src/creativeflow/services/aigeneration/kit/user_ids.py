"""The one form of a user id, whatever way it comes in."""

import unicodedata

USER_ID_MAX = 200


def normalise_user_id(text: str) -> str | None:
    """Return a user id trimmed and in NFC; None if it is empty, too long or not printable."""
    found = unicodedata.normalize("NFC", text.strip())
    return found if 0 < len(found) <= USER_ID_MAX and found.isprintable() else None
