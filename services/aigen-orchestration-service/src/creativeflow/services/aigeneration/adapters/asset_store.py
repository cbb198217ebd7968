"""Pictures as files in the data directory, named by unguessable ids: for the embedded profile and trials."""

import io
import os
import re
from pathlib import Path
from uuid import uuid4

from PIL import Image, UnidentifiedImageError

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.request import Asset

_FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")


class AssetStore:
    """A directory of pictures; an id cannot be guessed, so knowing one is the right to see it."""

    def __init__(self, directory: Path, *, public_url: str) -> None:
        self._directory = directory
        self._public_url = public_url.rstrip("/")
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, data: bytes) -> Asset:
        """Keep one picture; blocking, so call it in a thread.

        Raises:
            InvalidRequestError: the bytes are not a PNG, JPEG or WebP picture.
        """
        try:
            with Image.open(io.BytesIO(data)) as image:
                file_format, size = _FORMATS[image.format or ""], image.size
        except (UnidentifiedImageError, KeyError, OSError, ValueError, Image.DecompressionBombError):
            raise InvalidRequestError.at(
                "", "not_a_picture", "Send the bytes of a PNG, JPEG or WebP picture."
            ) from None
        asset_id = uuid4().hex
        name = f"{asset_id}.{file_format}"
        partial = self._directory / f"{name}.part"
        partial.write_bytes(data)
        os.replace(partial, self._directory / name)  # noqa: PTH105 - atomic, and says so
        return Asset(
            asset_id=asset_id, url=f"{self._public_url}/assets/{name}", resolution=f"{size[0]}x{size[1]}",
            format=file_format,
        )  # fmt: skip

    def path(self, name: str) -> Path | None:
        """Where a picture lies, or None; names of any other shape are never looked up."""
        path = self._directory / name
        return path if _NAME.fullmatch(name) and path.is_file() else None
