"""Pictures as files in the data directory, named by unguessable ids."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Mapping
from pathlib import Path
from uuid import uuid4

from creativeflow.services.aigeneration.adapters.images.inspection import (
    REASONS,
    PictureDecoder,
    PictureFacts,
    PictureRefusedError,
)
from creativeflow.services.aigeneration.adapters.upload_quotas import Uploader, UploadLog
from creativeflow.services.aigeneration.domain.errors import AigenError, InvalidRequestError
from creativeflow.services.aigeneration.domain.request import Asset
from creativeflow.services.aigeneration.kit.disk import sync, write

_KINDS = ("png", "jpg", "webp")
_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")
_LEFT_OVER_SECONDS = 86_400.0
_LOGS_KEPT_SECONDS = 400 * 86_400.0
"""Longer than the period of every quota."""

REFERENCE_LIMITS = {
    "side_min": 64,
    "side_max": 8192,
    "pixels_max": 4096 * 4096,
    "jpeg_pixels_max": 8192 * 6144,
    "side_kept": 2048,
}
"""A JPEG can be decoded at a fraction of its size, other formats only completely."""
_REFERENCE_SENTENCES = {
    "too_small": "Each side must have at least 64 pixels. Send a larger picture.",
    "too_many_pixels": (
        "A JPEG may have 50 megapixels and 8192 pixels a side, a PNG or WebP 16 megapixels. Make"
        " the picture smaller, or save it as JPEG."
    ),
}


class AssetStore:
    """A directory of pictures; ids are unguessable, so that knowing one grants access.

    The facts of a decoded picture are stored beside it, so that a report about it costs one small
    read.
    """

    def __init__(self, directory: Path, *, public_url: str, decoder: PictureDecoder) -> None:
        self._directory = directory
        self._public_url = public_url.rstrip("/")
        self._decoder = decoder
        self._log = UploadLog(
            directory / "uploads", stored=lambda name: self.path(name) is not None
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # shared, and another user's
            directory.chmod(0o700)

    async def save(
        self, data: bytes | AsyncIterable[bytes], uploader: Uploader | None = None
    ) -> Asset:
        """Store one still picture of at most 4096 x 4096 px after decoding it completely.

        Raises:
            InvalidRequestError: not a complete PNG, JPEG or WebP picture within these limits.
            UploadQuotaError, JobUploadsError: the quota of the uploader is used up.
        """
        async with self._received(data, uploader) as partial:
            facts = await _accepted(self._decoder.inspect(partial))
            return await asyncio.to_thread(self._keep, partial, facts, uploader)

    async def save_reference(
        self, data: bytes | AsyncIterable[bytes], uploader: Uploader | None = None
    ) -> Asset:
        """Store the reference picture of a user: upright, at most 2048 px, one frame, without
        metadata.

        Raises:
            InvalidRequestError: not a PNG, JPEG or WebP picture, or too small or too large.
            UploadQuotaError: the quota of the user is used up.
        """
        async with self._received(data, uploader) as partial, self.scratch() as reduced:
            facts = await _accepted(
                self._decoder.reduce(partial, reduced, **REFERENCE_LIMITS), _REFERENCE_SENTENCES
            )
            return await asyncio.to_thread(self._keep, reduced, facts, uploader)

    def name_of(self, asset_id: str) -> str | None:
        """Return the file name of an asset id, such as `<id>.png`; None if it is not stored."""
        return next((name for kind in _KINDS if self.path(name := f"{asset_id}.{kind}")), None)

    def path(self, name: str) -> Path | None:
        """Return the path of a picture, or None; names of any other shape are never looked up."""
        path = self._directory / name
        return path if _NAME.fullmatch(name) and path.is_file() else None

    def own_name(self, url: str) -> str | None:
        """Return the file name in a URL of this service, whether it exists or not; None for other
        URLs.
        """
        name = url.removeprefix(f"{self._public_url}/assets/")
        return name if name != url and _NAME.fullmatch(name) else None

    async def facts(self, name: str) -> PictureFacts:
        """Return the facts of a stored picture; decode it if they are unknown.

        Raises:
            FileNotFoundError: it does not exist.
            PictureRefusedError: it cannot be decoded.
            OSError: the disk cannot be read.
        """
        path = self.path(name)
        if path is None:
            raise FileNotFoundError(name)
        known = await asyncio.to_thread(_known_facts, path)
        if known is not None:
            return known
        facts = await self._decoder.inspect(path)
        await asyncio.to_thread(_facts_path(path).write_text, facts.to_json())
        return facts

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Provide a file name on the same disk; the file is removed at the end of the block."""
        path = self._directory / f"{uuid4().hex}.part"
        try:
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def tidy(self) -> None:
        """Remove files of interrupted uploads, and logs that no quota counts any more."""
        await asyncio.to_thread(self._tidy)

    def _tidy(self) -> None:
        for path in self._directory.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                    path.unlink()
        self._log.tidy(_LOGS_KEPT_SECONDS)

    @contextlib.asynccontextmanager
    async def _received(
        self, data: bytes | AsyncIterable[bytes], uploader: Uploader | None
    ) -> AsyncIterator[Path]:
        """Write the bytes to a file in chunks, so that large uploads take no memory."""
        if uploader is not None:
            await asyncio.to_thread(self._log.check, uploader)
        async with self.scratch() as path:
            await write(path, _pieces(data))
            yield path

    def _keep(self, partial: Path, facts: PictureFacts, uploader: Uploader | None) -> Asset:
        """Rename a picture to its final name after flushing it to the disk."""
        asset_id = uuid4().hex
        name = f"{asset_id}.{facts.format}"
        path = self._directory / name
        _facts_path(path).write_text(facts.to_json())
        sync(partial)
        os.replace(partial, path)  # noqa: PTH105 - atomic, and says so
        sync(self._directory)
        if uploader is not None:
            try:
                self._log.record(uploader, name, facts.bytes)
            except AigenError:
                path.unlink()
                _facts_path(path).unlink()
                raise
        return Asset(
            asset_id=asset_id,
            url=f"{self._public_url}/assets/{name}",
            resolution=facts.resolution,
            format=facts.format,
            checksum=facts.checksum,
        )


async def _pieces(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for piece in data:
        yield piece


async def _accepted(
    found: Awaitable[PictureFacts], sentences: Mapping[str, str] = REASONS
) -> PictureFacts:
    """Return the facts, or raise the refusal as a sentence for the uploader."""
    try:
        return await found
    except PictureRefusedError as error:
        sentence = sentences.get(error.reason) or REASONS[error.reason]
        raise InvalidRequestError.at("", error.reason, sentence) from None


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _known_facts(path: Path) -> PictureFacts | None:
    """Return the facts stored beside a picture; None if missing or of another length."""
    try:
        facts = PictureFacts.from_json(_facts_path(path).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return facts if facts.bytes == path.stat().st_size else None
