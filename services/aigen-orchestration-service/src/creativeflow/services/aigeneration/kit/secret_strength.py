"""Secrets that are easily guessed: repeated or placeholder texts, digests of nothing."""

import hashlib
import math
import re
from collections import Counter
from itertools import pairwise

_PLACEHOLDERS = re.compile(
    r"change[-_ ]?(me|this|it)|example|placeholder|password|your[-_ ]|replace[-_ ]?(me|this)",
    re.IGNORECASE,
)
_EMPTY_DIGESTS = frozenset(hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b"\r\n"))
"""Digests of an empty variable, and of an empty line of `echo`."""


def is_guessable(secret: str, *, bits: float) -> bool:
    """Return whether a secret is a placeholder, or has less entropy than `bits`.

    The entropy is estimated from the frequency of its characters; a repeated text counts once, and
    of a run of the same character or of the alphabet only the beginning.
    """
    unit = secret[: (secret + secret).find(secret, 1)]
    steps = [ord(after) - ord(before) for before, after in pairwise(unit)]
    in_runs = sum(step == before and step in {-1, 0, 1} for before, step in pairwise(steps))
    entropy = _bits_per_character(unit) * (len(unit) - in_runs)
    return entropy < bits or _PLACEHOLDERS.search(secret) is not None


def is_digest_of_nothing(digest: str) -> bool:
    """Return whether a SHA-256 is that of an empty text or an empty line."""
    return digest.lower() in _EMPTY_DIGESTS


def _bits_per_character(text: str) -> float:
    size = len(text)
    return sum(n / size * math.log2(size / n) for n in Counter(text).values())
