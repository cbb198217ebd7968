"""The time and new ids: what the domain is handed because it must not make it."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """A new time-ordered id (RFC 9562, version 7): ids sort by their millisecond of birth."""
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(
        int=(time.time_ns() // 1_000_000) << 80
        | 0x7 << 76
        | (random >> 68 & 0xFFF) << 64
        | 0b10 << 62
        | random & 0x3FFFFFFFFFFFFFFF
    )
