"""Pictures as files in the data directory, named by unguessable ids: for the embedded profile and trials."""

import io
import os
import re
from pathlib import Path
from uuid import uuid4

from PIL import Image, ImageOps, UnidentifiedImageError

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.request import Asset

_FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")


_REFERENCE_MIN, _REFERENCE_MAX, _REFERENCE_KEPT = 64, 8192, 2048


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
            raise _not_a_picture() from None
        asset_id = uuid4().hex
        name = f"{asset_id}.{file_format}"
        partial = self._directory / f"{name}.part"
        partial.write_bytes(data)
        os.replace(partial, self._directory / name)  # noqa: PTH105 - atomic, and says so
        return Asset(
            asset_id=asset_id, url=f"{self._public_url}/assets/{name}", resolution=f"{size[0]}x{size[1]}",
            format=file_format,
        )  # fmt: skip

    def save_reference(self, data: bytes) -> Asset:
        """Keep a user's picture: upright, at most 2048 px, and without what a camera noted; blocking.

        Raises:
            InvalidRequestError: the bytes are not a PNG, JPEG or WebP picture, or it is too small or too large.
        """
        try:
            with Image.open(io.BytesIO(data)) as image:
                file_format, size = image.format or "", image.size
                if file_format not in _FORMATS:
                    raise _not_a_picture()
                if min(size) < _REFERENCE_MIN or max(size) > _REFERENCE_MAX:
                    raise InvalidRequestError.at(
                        "", "picture_size", f"Each side must have {_REFERENCE_MIN} to {_REFERENCE_MAX} pixels."
                    )
                upright = ImageOps.exif_transpose(image)
                upright.thumbnail((_REFERENCE_KEPT, _REFERENCE_KEPT))
                kept = io.BytesIO()
                upright.convert("RGB" if file_format == "JPEG" else "RGBA").save(kept, file_format, exif=b"")
        except InvalidRequestError:
            raise
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise _not_a_picture() from None
        return self.save(kept.getvalue())

    def name_of(self, asset_id: str) -> str | None:
        """The file of an asset id, such as `<id>.png`; None where it is not kept here."""
        return next((name for kind in _FORMATS.values() if self.path(name := f"{asset_id}.{kind}")), None)

    def path(self, name: str) -> Path | None:
        """Where a picture lies, or None; names of any other shape are never looked up."""
        path = self._directory / name
        return path if _NAME.fullmatch(name) and path.is_file() else None


def _not_a_picture() -> InvalidRequestError:
    return InvalidRequestError.at("", "not_a_picture", "Send the bytes of a PNG, JPEG or WebP picture.")
