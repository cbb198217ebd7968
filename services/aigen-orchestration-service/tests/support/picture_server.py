"""Valid and invalid pictures, and an HTTP server on loopback that serves them."""

import asyncio
import io
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image

from tests.support.loopback_server import LoopbackServer

LOOPBACK = ("127.0.0.0/8",)
"""Value of AIGEN_RESULT_ALLOWED_NETWORKS that allows this server."""

NAMES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF"}
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def picture(
    width: int = 512, height: int = 512, kind: str = "png", *, seed: int = 0, **options: Any
) -> bytes:
    """Return a picture of noise, which does not compress; equal arguments give equal bytes."""
    noise = random.Random(seed).randbytes(width * height * 3)  # noqa: S311 - no secret
    stream = io.BytesIO()
    Image.frombytes("RGB", (width, height), noise).save(stream, NAMES[kind], **options)
    return stream.getvalue()


def plain(width: int, height: int, kind: str = "png", mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture of one colour: many pixels in few bytes."""
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(
        stream, kind if kind.isupper() else NAMES[kind], **options
    )
    return stream.getvalue()


def animated(kind: str) -> bytes:
    """Return a picture with three different frames."""
    frames = [Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)) for _ in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, NAMES[kind], save_all=True, append_images=frames[1:], duration=100)
    return stream.getvalue()


class PictureServer(LoopbackServer):
    """Serves `files` by path: bytes, a status, a status with headers, or a function on the
    connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes | int | tuple[int, str] | list[Any] | Script] = {}
        self.requests: Counter[str] = Counter()

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def put(self, path: str, content: bytes | int | tuple[int, str] | list[Any] | Script) -> str:
        """Serve this under a path; of a list one item after the other, the last one repeatedly.
        Return the URL.
        """
        self.files[path] = content
        return self.url(path)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.requests[path] += 1
        await self._answer(self._next(path), writer)

    def _next(self, path: str) -> bytes | int | tuple[int, str] | Script:
        found = self.files.get(path, 404)
        if isinstance(found, list):
            one: bytes | int | tuple[int, str] | Script = (
                found.pop(0) if len(found) > 1 else found[0]
            )
            return one
        return found

    async def _answer(
        self, content: bytes | int | tuple[int, str] | Script, writer: asyncio.StreamWriter
    ) -> None:
        if callable(content):
            await content(writer)
            return
        status, extra, body = 200, "Content-Type: image/png\r\n", b""
        if isinstance(content, bytes):
            body = content
        elif isinstance(content, tuple):
            status, extra = content[0], f"{content[1]}\r\n"
        else:
            status = content
        writer.write(
            f"HTTP/1.1 {status} Said\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        await writer.drain()
