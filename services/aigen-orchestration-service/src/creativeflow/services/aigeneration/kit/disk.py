"""Write files durably without blocking the event loop."""

import asyncio
import os
from collections.abc import AsyncIterable
from pathlib import Path

_WRITTEN_BYTES = 1 << 20


async def write(path: Path, pieces: AsyncIterable[bytes]) -> int:
    """Write all chunks to a file durably; return its length."""
    written = 0
    with await asyncio.to_thread(path.open, "wb") as file:
        kept: list[bytes] = []
        size = 0
        async for piece in pieces:
            kept.append(piece)
            size += len(piece)
            if size >= _WRITTEN_BYTES:
                await asyncio.to_thread(file.writelines, kept)
                written, kept, size = written + size, [], 0
        await asyncio.to_thread(file.writelines, kept)
    return written + size


def sync(path: Path) -> None:
    """Flush a file to the disk, so that a delivered picture survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
