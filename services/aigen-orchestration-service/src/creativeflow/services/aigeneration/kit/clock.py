"""The current time, new ids and random bytes."""

import os
import time
from collections import deque
from datetime import UTC, datetime
from uuid import UUID

_PIECE_BYTES = 16
_PIECES = 256
_chunks: deque[bytes] = deque()
os.register_at_fork(after_in_child=_chunks.clear)  # two processes must not use the same bytes


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def random_bytes() -> bytes:
    """Return 16 unpredictable bytes, drawn from the system in larger pieces."""
    try:
        return _chunks.popleft()  # atomic, so that two threads never get the same bytes
    except IndexError:
        drawn = os.urandom(_PIECE_BYTES * _PIECES)
        _chunks.extend(
            drawn[at : at + _PIECE_BYTES] for at in range(_PIECE_BYTES, len(drawn), _PIECE_BYTES)
        )
        return drawn[:_PIECE_BYTES]


def uuid7(at: datetime | None = None) -> UUID:
    """Return a new time-ordered id (RFC 9562, version 7) of now or of another time; ids sort by the
    millisecond.

    All 74 bits beside the time are random: libraries count within a millisecond instead, which
    would let a caller guess the ids of others.
    """
    random = int.from_bytes(random_bytes(), "big")
    milliseconds = time.time_ns() // 1_000_000 if at is None else int(at.timestamp() * 1000)
    return UUID(
        int=milliseconds << 80
        | 0x7 << 76
        | (random >> 68 & 0xFFF) << 64
        | 0b10 << 62
        | random & 0x3FFFFFFFFFFFFFFF
    )


def uuid7_time(made: UUID) -> datetime:
    """Return the creation time of an id of version 7, in milliseconds."""
    return datetime.fromtimestamp((made.int >> 80) / 1000, UTC)


def first_id(at: datetime, later_seconds: float = 0) -> UUID:
    """Return the lowest id of version 7 that can be made `later_seconds` after `at`."""
    return UUID(int=max(0, int(1000 * (at.timestamp() + later_seconds))) << 80)
