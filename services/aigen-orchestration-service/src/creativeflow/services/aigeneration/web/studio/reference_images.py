"""Reference images of users: upload and previews."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.schemas.generations import REFERENCES_MAX
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web.auth import StudioVisitor
from creativeflow.services.aigeneration.web.templating import create_page_router

router = create_page_router("/studio")
UPLOADS = "/studio/references"
"""Path of uploads, which may be larger than other request bodies."""
_LOCAL_IMAGE = re.compile(r"(?:\S+/assets/)?([0-9a-f]{32})(?:\.(?:png|jpg|webp))?")


@dataclass(frozen=True, slots=True)
class Preview:
    """A reference; `picture` is the address of its image, empty if it is not stored here."""

    reference: str
    picture: str


@router.post("/references")
async def upload_reference(request: Request, visitor: StudioVisitor) -> Response:
    """Store an image, sent as the request body, and return its reference."""
    if not request.headers.get("content-type", "").startswith("image/"):
        raise errors.UnsupportedMediaTypeError(expected="a PNG, JPEG or WebP image")
    asset = await services_of(request).save_reference(
        visitor.principal.user_id or "", request.stream()
    )
    reference = asset["url"] if asset["url"].startswith("https://") else asset["asset_id"]
    return json_response(
        {"reference": reference, "picture": f"/assets/{asset['asset_id']}.{asset['format']}"}, 201
    )


def build_previews(request: Request, references: Sequence[str]) -> list[Preview]:
    """Build previews of references."""
    return [
        Preview(reference, _get_picture_path(request, reference))
        for reference in references[:REFERENCES_MAX]
    ]


def _get_picture_path(request: Request, reference: str) -> str:
    """Return the path of a locally stored image: pages load no address that a user typed."""
    match = _LOCAL_IMAGE.fullmatch(reference)
    name: str | None = services_of(request).assets.name_of(match[1]) if match else None
    return f"/assets/{name}" if name else ""
