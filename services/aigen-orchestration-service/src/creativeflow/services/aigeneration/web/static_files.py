"""Styles, scripts and pictures of the pages: from memory, under an address that changes with their
content.

One digest stands for all files, so that scripts find one another by relative addresses.
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

PREFIX = "/static/web"
_FOR_EVER = "public, max-age=31536000, immutable"
_WORTH_PACKING = 500
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Static:
    """One file; `packed` is its gzip, empty where that is not worth it."""

    etag: str
    media_type: str
    content: bytes
    packed: bytes


class StaticFiles:
    """All files of the folder `static`, read once."""

    def __init__(self) -> None:
        root = files("creativeflow.services.aigeneration.web") / "static"
        self._files = {name: _load(name, file.read_bytes()) for name, file in _walk(root)}
        said = "".join(f"{name}{file.etag}" for name, file in sorted(self._files.items()))
        self._digest = hashlib.sha256(said.encode()).hexdigest()[:16]

    def url(self, name: str) -> str:
        """Where a file is.

        Raises:
            KeyError: there is no such file: a mistake in a template.
        """
        if name not in self._files:
            raise KeyError(name)
        return f"{PREFIX}/{self._digest}/{name}"

    def find(self, digest: str, name: str) -> Static | None:
        """The file as it was when this digest was given out; None when it has changed since."""
        return self._files.get(name) if digest == self._digest else None


@router.get(f"{PREFIX}/{{digest}}/{{name:path}}")
async def static(
    digest: Annotated[str, Path(max_length=64)],
    name: Annotated[str, Path(max_length=200)],
    request: Request,
) -> Response:
    """A file; other content has another address, so it is kept for ever."""
    statics: StaticFiles = request.app.state.statics
    found = statics.find(digest, name)
    if found is None:
        raise NotFoundError
    headers = {"Cache-Control": _FOR_EVER, "ETag": found.etag, "Vary": "Accept-Encoding"}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if found.packed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(found.packed, headers=headers, media_type=found.media_type)
    return Response(found.content, headers=headers, media_type=found.media_type)


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _load(name: str, content: bytes) -> Static:
    media_type = (
        _TYPES.get(name[name.rfind(".") :])
        or mimetypes.guess_type(name)[0]
        or "application/octet-stream"
    )
    packed = gzip.compress(content, mtime=0) if len(content) > _WORTH_PACKING else b""
    return Static(
        f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        media_type,
        content,
        packed if len(packed) < len(content) else b"",
    )
