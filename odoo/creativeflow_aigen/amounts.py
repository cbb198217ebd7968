"""Credits as text on the wire and whole hundredths inside; never floats."""

import re

_TEXT = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,2}))?", re.ASCII)


def hundredths(text):
    """ "0.25" → 25.

    Raises:
        ValueError: not text, or not a decimal number with at most two places.
    """
    match = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError("an amount is a decimal text such as 0.25")
    sign, whole, part = match.groups()
    amount = int(whole) * 100 + int((part or "").ljust(2, "0"))
    return -amount if sign else amount


def decimal_text(amount):
    """25 → "0.25"."""
    return f"{'-' if amount < 0 else ''}{abs(amount) // 100}.{abs(amount) % 100:02d}"
