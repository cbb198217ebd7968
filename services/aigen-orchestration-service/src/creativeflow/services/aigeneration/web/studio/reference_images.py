"""Pictures that users give along: uploaded, made small, and shown beside what was asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from creativeflow.services.aigeneration.api.responses import json_response
from creativeflow.services.aigeneration.api.schemas.generations import REFERENCES_MAX
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web.auth import StudioVisitor
from creativeflow.services.aigeneration.web.templating import pages_router

router = pages_router("/studio")
UPLOADS = "/studio/references"
"""Where pictures are uploaded, which are larger than other bodies."""
_OURS = re.compile(r"(?:\S+/assets/)?([0-9a-f]{32})(?:\.(?:png|jpg|webp))?")


@dataclass(frozen=True, slots=True)
class Preview:
    """A reference; `picture` is its address, empty where a browser cannot show it."""

    reference: str
    picture: str


@router.post("/references")
async def upload(request: Request, visitor: StudioVisitor) -> Response:
    """Keep one picture, sent as it is; the answer says how to refer to it."""
    if not request.headers.get("content-type", "").startswith("image/"):
        raise errors.UnsupportedMediaTypeError(expected="a PNG, JPEG or WebP picture")
    asset = await request.app.state.save_reference(
        visitor.principal.user_id or "", request.stream()
    )
    reference = asset["url"] if asset["url"].startswith("https://") else asset["asset_id"]
    return json_response(
        {"reference": reference, "picture": f"/assets/{asset['asset_id']}.{asset['format']}"}, 201
    )


def previews(request: Request, references: Sequence[str]) -> list[Preview]:
    """The references with what can be shown of them."""
    return [
        Preview(reference, _picture(request, reference))
        for reference in references[:REFERENCES_MAX]
    ]


def _picture(request: Request, reference: str) -> str:
    """Only what is kept here: a page of ours fetches nothing that its user typed."""
    ours = _OURS.fullmatch(reference)
    name: str | None = request.app.state.assets.name_of(ours[1]) if ours else None
    return f"/assets/{name}" if name else ""
