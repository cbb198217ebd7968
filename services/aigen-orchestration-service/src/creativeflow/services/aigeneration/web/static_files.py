"""Static files of the pages, served from memory under addresses that contain a content digest.

All files share one digest, so that scripts can import each other by relative addresses.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from creativeflow.services.aigeneration.domain.errors import NotFoundError
from creativeflow.services.aigeneration.web.services import page_support_of

PREFIX = "/static/web"
_CACHE_FOREVER = "public, max-age=31536000, immutable"
_GZIP_MIN_BYTES = 500
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file; `gzipped` is empty if compression does not pay."""

    etag: str
    media_type: str
    content: bytes
    gzipped: bytes


class StaticFiles:
    """All files of the folder `static`, read once at start-up."""

    def __init__(self) -> None:
        root = files("creativeflow.services.aigeneration.web") / "static"
        self._files = {name: _load(name, file.read_bytes()) for name, file in _iterate_files(root)}
        digests = "".join(f"{name}{file.etag}" for name, file in sorted(self._files.items()))
        self._digest = hashlib.sha256(digests.encode()).hexdigest()[:16]

    def get_url(self, name: str) -> str:
        """Return the address of a file.

        Raises:
            KeyError: there is no such file.
        """
        if name not in self._files:
            raise KeyError(name)
        return f"{PREFIX}/{self._digest}/{name}"

    def find(self, digest: str, name: str) -> StaticFile | None:
        """Return the file; None if it does not exist or has changed since this digest."""
        return self._files.get(name) if digest == self._digest else None


@router.get(f"{PREFIX}/{{digest}}/{{name:path}}")
async def serve_static_file(
    digest: Annotated[str, Path(max_length=64)],
    name: Annotated[str, Path(max_length=200)],
    request: Request,
) -> Response:
    """Serve a file, cacheable forever because other content has another address."""
    statics = page_support_of(request).static_files
    found = statics.find(digest, name)
    if found is None:
        raise NotFoundError
    headers = {"Cache-Control": _CACHE_FOREVER, "ETag": found.etag, "Vary": "Accept-Encoding"}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if found.gzipped and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(found.gzipped, headers=headers, media_type=found.media_type)
    return Response(found.content, headers=headers, media_type=found.media_type)


def _iterate_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _iterate_files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _load(name: str, content: bytes) -> StaticFile:
    media_type = (
        _TYPES.get(name[name.rfind(".") :])
        or mimetypes.guess_type(name)[0]
        or "application/octet-stream"
    )
    gzipped = gzip.compress(content, mtime=0) if len(content) > _GZIP_MIN_BYTES else b""
    return StaticFile(
        f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        media_type,
        content,
        gzipped if len(gzipped) < len(content) else b"",
    )
