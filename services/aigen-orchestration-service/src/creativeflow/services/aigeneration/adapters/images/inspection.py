"""Inspect picture files in a decoder process with limited memory and time."""

import asyncio
import json
import os
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from creativeflow.services.aigeneration.domain.formats import SIDE_MAX

log = structlog.get_logger(__name__)

REASONS = {
    "not_a_picture": "Send the bytes of a PNG, JPEG or WebP picture.",
    "truncated": "The picture ends too early. Send all of its bytes again.",
    "damaged": "The picture is damaged and cannot be opened. Create it again and send it again.",
    "animated": "The picture has several frames. Send a still picture.",
    "too_small": "The picture is too small. Send a larger one.",
    "too_many_pixels": "The picture has too many pixels. Make it smaller and send it again.",
    "too_much_memory": "The picture takes too much to open. Make it smaller and send it again.",
    "too_slow": "The picture takes too long to open. Make it smaller and send it again.",
}
"""Reasons for refusing a picture, with the message for the uploader."""

_DECODER = "creativeflow.services.aigeneration.adapters.images.decoder"
_DECODE_SECONDS = 20.0
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG")
"""The only variables that a decoder inherits: the settings contain secrets."""


class PictureRefusedError(Exception):
    """A picture is not accepted; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """The facts of a decoded picture; sides in pixels as displayed."""

    format: str
    width: int
    height: int
    bytes: int
    sha256: str

    @property
    def resolution(self) -> str:
        """The size as "WxH"."""
        return f"{self.width}x{self.height}"

    @property
    def checksum(self) -> str:
        """The SHA-256 in the form that assets have."""
        return f"sha256:{self.sha256}"

    def to_json(self) -> str:
        """Return the facts as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(**json.loads(text))
        except TypeError:
            raise ValueError("not the facts of a picture") from None


class PictureDecoder:
    """One decoder process, started on demand and replaced when it has ended; orders are queued.

    At most one picture is decoded at a time, and none in this process, so that its event loop is
    never blocked.
    """

    def __init__(self, *, timeout_seconds: float = _DECODE_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def inspect(self, path: Path) -> PictureFacts:
        """Decode a still picture of at most 4096 x 4096 px completely.

        Raises:
            PictureRefusedError: it cannot be decoded, or is outside the limits.
            OSError: the file cannot be read, or no decoder can be started.
        """
        return await self._order(path=str(path), pixels_max=SIDE_MAX * SIDE_MAX, side_max=SIDE_MAX)

    async def reduce(self, path: Path, target: Path, **limits: int) -> PictureFacts:
        """Write a picture upright, small and without metadata to `target`.

        `limits` are those of `decoder.reduce`.

        Raises:
            PictureRefusedError, OSError: as `inspect`.
        """
        return await self._order(path=str(path), target=str(target), **limits)

    async def close(self) -> None:
        """End the process after a running order. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    async def _order(self, **order: Any) -> PictureFacts:
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, order)
        if reason := answer.get("refused"):
            raise PictureRefusedError(reason)
        if failed := answer.get("failed"):
            raise OSError(failed)
        return PictureFacts(**answer["facts"])

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            answered = select.select([process.stdout], [], [], self._timeout_seconds)[0]
            line = process.stdout.readline() if answered else b""
        except BrokenPipeError:
            answered, line = [process.stdout], b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._end()
        reason = "damaged" if answered else "too_slow"
        log.warning("picture_decoder_ended", reason=reason, exit_code=process.returncode)
        return {"refused": reason}

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            # It ended between two pictures, for example by the system's out-of-memory killer.
            self._end()
        if self._process is None:
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            environment["MALLOC_MMAP_THRESHOLD_"] = (
                "1048576"  # glibc gives back what a large picture took
            )
            self._process = subprocess.Popen(  # noqa: S603 - this module of ours
                [sys.executable, "-m", _DECODER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                close_fds=True,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
